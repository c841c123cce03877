"""The audio-visual gate by itself (paper section 3.3; step 11 of the network)."""

from torch import Tensor

from img_deploy.kernels import functional
from img_deploy.kernels.checking import Tolerance

_ROUNDED = "rounded to {} bits: the result"

TOLERANCES = {
    "fp32": Tolerance(4e-6, 1e-6, "fp32 sums in another order, approximate square root"),
    "fp16": Tolerance(1e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(8e-3, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1."""


def gate(visual: Tensor, audio: Tensor, importance: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """``(1 - p) LN1(visual) + p LN2(audio)``.

    Args:
        visual, audio: [B, L, D].
        importance: [B], the fusion weight p' in 0..1.
        norm_weight, norm_bias: [2, D], the LayerNorms of visual and audio.

    Returns:
        [B, L, D] in ``visual.dtype``.
    """
    return functional.gate(visual, audio, importance, norm_weight, norm_bias)
