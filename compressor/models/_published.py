"""Published torchvision weights: the only place of the model room that downloads."""

from collections.abc import Iterable

from torch import Tensor, nn

from compressor.errors import RunError, UsageError


def load_published(net: nn.Module, name: str, fresh: Iterable[str] = ()) -> nn.Module:
    """Fill `net` with torchvision's first published weights of `name`, downloading them if need be.

    The first set (IMAGENET1K_V1) is taken because "default" moves between torchvision releases,
    and with it what a config means. `fresh` are module paths that keep their random start where
    the shapes differ: a head of another class count, a first convolution of another channel count
    (one channel takes the sum over RGB, which is exact for a grey image). Returns `net`.
    """
    from torchvision import models

    choices = list(models.get_model_weights(name))
    if not choices:
        raise UsageError(f"torchvision publishes no weights for {name}; set model.pretrained=false")
    try:
        published = choices[0].get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # a download can fail in as many ways as there are networks
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(
            f"the published weights of {name} could not be fetched from {choices[0].url} "
            f"({reason}); set model.pretrained=false or put the file into torch's hub cache"
        ) from error
    _fill(net, published, name, tuple(f"{path}." for path in fresh))
    return net


def _fill(net: nn.Module, published: dict[str, Tensor], name: str, fresh: tuple[str, ...]) -> None:
    own = net.state_dict()
    fitting = {}
    for key, tensor in published.items():
        if key in own and own[key].shape == tensor.shape:
            fitting[key] = tensor
        elif key in own and tensor.dim() == 4 and _is_grey(own[key], tensor):
            fitting[key] = tensor.sum(dim=1, keepdim=True)
        elif not key.startswith(fresh):
            raise RunError(
                f"the published weights of {name} do not fit this network at {key}; "
                "drop the changed model options or set model.pretrained=false"
            )
    counters = ("num_batches_tracked",)  # absent from the oldest published files
    missing = [k for k in own if k not in fitting and not k.startswith(fresh)]
    missing = [k for k in missing if not k.endswith(counters)]
    if missing:
        raise RunError(
            f"the published weights of {name} lack {missing[0]}; "
            "drop the changed model options or set model.pretrained=false"
        )
    net.load_state_dict(fitting, strict=False)


def _is_grey(own: Tensor, published: Tensor) -> bool:
    return own.shape == (published.shape[0], 1, *published.shape[2:]) and published.shape[1] == 3
