"""How far the lowerings of ``attention_block`` may be from the reference in float64."""

from img_deploy.kernels.tolerance import Tolerance

_ROUNDED = "rounded to {} bits: q, k, v, the softmax's weights and the LayerNorms' outputs"

TOLERANCES = {
    "triton": {
        "fp32": Tolerance(1e-5, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
        "fp16": Tolerance(5e-3, 1e-3, _ROUNDED.format(11)),
        "bf16": Tolerance(4e-2, 8e-3, _ROUNDED.format(8)),
    },
}
"""Lowering -> storage dtype -> tolerance of the result, whose size is about 1 to 10."""
