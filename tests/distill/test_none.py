import torch

from compressor.distill.none import NoDistillation


def test_loss_is_zero_and_labels_have_full_weight():
    null = NoDistillation()
    logits = torch.randn(4, 3)
    assert null.loss({"logits": logits}, {}, None).item() == 0.0
    assert null.label_weight == 1.0 and null.layers() == ((), ())
