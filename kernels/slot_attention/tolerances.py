"""How far the lowerings of ``slot_attention`` may be from the reference in float64."""

from img_deploy.kernels.tolerance import Tolerance

TOLERANCES = {
    "triton": {
        "fp32": Tolerance(5e-5, 1e-5, "fp32 sums in another order; keys and values are folded away"),
        "fp16": Tolerance(1e-2, 1e-2, "rounded to 11 bits before each of 12 products per iteration"),
        "bf16": Tolerance(8e-2, 8e-2, "rounded to 8 bits before each of 12 products per iteration"),
    },
}
"""Lowering -> storage dtype -> tolerance of the slots, whose values are of order one."""
