"""Makes the object that a config sub-tree names; the one place where Hydra meets the methods."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from compressor.errors import RunError, UsageError


def make(tree: Mapping[str, Any]) -> Any:
    """`_target_` called with the sub-tree's other entries.

    A refusal of the constructor comes out as it was raised; a name that cannot be imported and an
    option that it does not take are usage errors.
    """
    try:
        return instantiate(dict(tree), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (UsageError, RunError)):
            raise cause from None
        reason = str(cause or error).splitlines()[0]
        raise UsageError(f"{tree.get('_target_')} cannot be made: {reason}") from error
