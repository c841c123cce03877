"""How far the lowerings of ``bigru`` may be from the reference in float64."""

from img_deploy.kernels.tolerance import Tolerance

TOLERANCES = {
    "triton": {
        "fp32": Tolerance(2e-5, 0.0, "fp32 sums over I and H in another order, and approximate exponentials, per step"),
        "fp16": Tolerance(4e-3, 0.0, "the gates' input part and the output are rounded to 11 bits; a tile's state too"),
        "bf16": Tolerance(3e-2, 0.0, "the gates' input part and the output are rounded to 8 bits; a tile's state too"),
    },
}
"""Lowering -> storage dtype -> tolerance of the states, which lie in -1..1."""
