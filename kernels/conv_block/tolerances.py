"""How far the lowerings of ``conv_block`` may be from the reference in float64."""

from img_deploy.kernels.tolerance import Tolerance

_ROUNDED = "rounded to {} bits: each layer's LayerNorm and depthwise outputs, but not the sum over layers"

TOLERANCES = {
    "triton": {
        "fp32": Tolerance(5e-6, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
        "fp16": Tolerance(4e-3, 1e-3, _ROUNDED.format(11)),
        "bf16": Tolerance(3e-2, 8e-3, _ROUNDED.format(8)),
    },
}
"""Lowering -> storage dtype -> tolerance of the result, whose size is about 1 to 10."""
