"""ImageNet (ILSVRC 2012): 1.28 million photographs in 1,000 classes, 50,000 for the test part.

Russakovsky et al. IJCV 2015, arXiv:1409.0575.
Run: compress-run dataset=imagenet dataset.root=/data/imagenet
`root` holds train/<class>/ and val/<class>/, as the usual unpacking scripts leave it; val is the
test part here and the validation part is split off train. Test images: shorter side to 256, centre
crop of 224; training images: random resized crop (Szegedy et al. arXiv:1409.4842) and flip.
"""

from types import MappingProxyType

from compressor.data._base import Channels, Classes, HeldOut, ImageData, Side, Transforms
from compressor.data._folder import MaxPixels, Rules, Unreadable
from compressor.data._layout import read_parts
from compressor.data._source import Source
from compressor.options import Seed, Share, checked

# of the training images, as torchvision's pretrained networks expect them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNet(ImageData):
    """Colour images, decoded when they are asked for; `channels=1` keeps their luma."""

    name = "imagenet"

    @checked("dataset")
    def __init__(
        self,
        root: str,
        *,
        image_size: Side = 224,
        num_classes: Classes | None = 1000,
        channels: Channels = 3,
        validation: HeldOut = 0.1,
        split_seed: Seed = 0,
        crop_fraction: Share = 0.875,
        augment: Transforms = MappingProxyType({"crop": 0, "flip": True, "scale": 0.08}),
        unreadable: Unreadable = "refuse",
        max_pixels: MaxPixels = 65_000_000,
        fingerprint_cache: str | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size,
            num_classes=num_classes,
            channels=channels,
            validation=validation,
            split_seed=split_seed,
            augment=augment,
            mean=MEAN,
            std=STD,
        )
        self.root = root
        self.rules = Rules(crop_fraction, max_pixels, unreadable, fingerprint_cache, single=True)
        self._class_names: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted; the position is the label."""
        self.prepare()
        return self._class_names

    def _read(self) -> tuple[int, dict[str, Source]]:
        # the test/ of the usual unpacking scripts has no labels
        found = read_parts(self.name, self.root, self.rules, self._note, ("val", "test"))
        self._class_names, self.notices, self.skipped = found.classes, found.notices, found.skipped
        return len(found.classes), found.sources
