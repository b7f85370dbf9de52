"""Self-supervised starts: what a network learns from images without labels. One file each.

Run: compress-run pretrain=rotnet dataset.labelled_fraction=0.1
"""

from torch import Tensor


class Pretext:
    """Chosen by the config group `pretrain`; all of it is to be given.

    classes: outputs of the pretext task's head.
    """

    classes: int

    def batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: (B, C, H, W), augmented. Returns the pretext's images and targets."""
        raise NotImplementedError
