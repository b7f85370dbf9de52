"""Names of aten operators by what they do to channels, without the underscore of in-place ones."""

from __future__ import annotations

NONLINEAR = frozenset(
    "relu hardtanh relu6 silu hardswish hardsigmoid sigmoid gelu leaky_relu elu celu selu mish "
    "softplus tanh _prelu_kernel prelu clamp clamp_min threshold rrelu_with_noise".split()
)
POINTWISE = NONLINEAR | frozenset("copy masked_fill where mul add sub div".split())
# results of these hold nothing that depends on a channel's number
MASKS = frozenset(
    "bernoulli uniform normal exponential random fill zero empty_like zeros_like ones_like "
    "full_like rand_like randn_like".split()
)
SAME = MASKS | frozenset(
    "clone detach alias _to_copy contiguous lift_fresh dropout feature_dropout native_dropout "
    "alpha_dropout".split()
)
FACTORIES = frozenset(
    "empty zeros ones full rand randn new_empty new_zeros new_ones new_full scalar_tensor "
    "empty_strided new_empty_strided".split()
)
MOVES = frozenset(
    "view _unsafe_view reshape _reshape_alias permute transpose t expand unsqueeze squeeze "
    "flip roll repeat pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle".split()
)
PARTS = frozenset(
    "split split_with_sizes unsafe_split unsafe_split_with_sizes unbind slice select narrow".split()
)
REDUCTIONS = frozenset(
    "mean sum amax amin var std var_mean std_mean max min prod norm linalg_vector_norm logsumexp "
    "any all".split()
)
ALONG = frozenset("_softmax softmax _log_softmax log_softmax cumsum cumprod sort".split())
SHORT = {
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d",
    "_unsafe_view": "view",
    "_prelu_kernel": "prelu",
}
GATES = ("sigmoid", "hardsigmoid", "tanh")
SIZES_IN_CODE = "sizes of its pieces stand in Python code"
