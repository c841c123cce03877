"""How far the lowerings of ``global_fusion`` may be from the reference in float64."""

from img_deploy.kernels.tolerance import Tolerance

_ROUNDED = "rounded to {} bits: the result; what enters the projection is exact"

TOLERANCES = {
    "triton": {
        "fp32": Tolerance(4e-6, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
        "fp16": Tolerance(1.5e-3, 1e-3, _ROUNDED.format(11)),
        "bf16": Tolerance(1e-2, 8e-3, _ROUNDED.format(8)),
    },
}
"""Lowering -> storage dtype -> tolerance of the result, whose size is about 1 to 10."""
