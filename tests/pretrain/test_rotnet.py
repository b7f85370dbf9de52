import pytest
import torch

from compressor.errors import UsageError
from compressor.pretrain.rotnet import RotNet, rotations


def test_turning_four_times_gives_back_the_image_bit_by_bit():
    x = torch.randn(2, 3, 5, 5)
    y = x
    for _ in range(4):
        y = rotations(y)[2:4]
    assert torch.equal(x, y)


def test_a_quarter_turn_is_counter_clockwise():
    x = torch.arange(4.0).view(1, 1, 2, 2)  # [[0, 1], [2, 3]]
    assert rotations(x)[1, 0].tolist() == [[1, 3], [0, 2]]
    # as the release does it: transpose, then flip up and down
    assert torch.equal(rotations(x)[1], x[0].transpose(1, 2).flip(1))


def test_all_copies_hold_the_same_pixels_and_follow_each_other_by_angle():
    x = torch.randn(3, 2, 6, 6)
    images, targets = RotNet().batch(x)
    assert targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    pixels = images.flatten(1).sort(dim=1).values.view(4, 3, -1)
    assert all(torch.equal(pixels[0], pixels[k]) for k in range(1, 4))


def test_images_that_are_not_square_are_refused():
    with pytest.raises(UsageError, match="square"):
        rotations(torch.zeros(1, 1, 4, 5))


def test_noise_gives_no_angle_away():
    """Trained on noise images, rotation accuracy on fresh noise stays at 25 % (3 sigma: 1.5)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    train = torch.rand(256, 1, 8, 8)
    for _ in range(60):
        images, targets = RotNet().batch(train[torch.randint(256, (64,))])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), targets).backward()
        optimizer.step()
    images, targets = RotNet().batch(torch.rand(2000, 1, 8, 8))
    with torch.no_grad():
        accuracy = (net(images).argmax(1) == targets).double().mean().item()
    assert abs(accuracy - 0.25) < 0.015
