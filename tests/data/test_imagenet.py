import numpy as np
import pytest
from PIL import Image

from compressor.data.imagenet import ImageNet
from compressor.errors import UsageError


@pytest.fixture
def two_classes(tmp_path):
    for part in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((300, 260, 3), 10 * i, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.JPEG")
    return tmp_path


def test_val_is_the_test_part_at_224_pixels(two_classes):
    data = ImageNet(str(two_classes), num_classes=2, validation=0.34)
    assert data.class_names == ("n01440764", "n01443537")
    assert [data.size(part) for part in ("train", "val", "test")] == [4, 2, 6]
    for part, augment in (("train", True), ("test", False)):
        assert next(iter(data.loader(part, 2, augment=augment)))[0].shape == (2, 3, 224, 224)


def test_the_number_of_classes_is_known_before_any_folder_is_read():
    data = ImageNet("nowhere")
    assert (data.num_classes, data.input_size) == (1000, (3, 224, 224))


def test_another_number_of_classes_is_refused(two_classes):
    with pytest.raises(UsageError, match="dataset.num_classes=1000 but imagenet has 2 classes"):
        ImageNet(str(two_classes)).prepare()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="dataset.root='.*gone' does not exist"):
        ImageNet(str(tmp_path / "gone")).prepare()
