"""The structure of a network, analysed once a process: the plan that is printed needs it, the cut
does, and so do the other members of a sweep over one architecture.
"""

from torch import Tensor, nn

from compressor import surgery
from compressor.artefact import Spec
from compressor.cache import key_of
from compressor.instantiation import sources
from compressor.surgery import Plan, Structure

_MOST = 4  # structures at hand: they hold tables as long as a network is wide
_known: dict[str, Structure] = {}


def structure_of(
    net: nn.Module, spec: Spec, plan: Plan, example_inputs: tuple[Tensor, ...]
) -> Structure:
    """net: of any weights, as `spec` builds it and `plan` cuts it; no weight is looked at."""
    key = key_of(spec=spec.to_json(), code=sources({"_target_": spec.factory}), plan=plan.to_json())
    found = _known.pop(key, None) or surgery.analyse(net, example_inputs)
    _known[key] = found  # the last used one stands last
    while len(_known) > _MOST:
        del _known[next(iter(_known))]
    return found
