"""How far the lowerings of ``best_spans`` may be from the reference in float64."""

from img_deploy.kernels.tolerance import Tolerance

_FP32 = Tolerance(1e-7, 1e-5, "scores are fp32 products of two fp32 softmaxes; each rounds about 1e-6 of its value")

TOLERANCES = {"triton": {"fp32": _FP32, "fp16": _FP32, "bf16": _FP32}}
"""Lowering -> storage dtype of the logits -> tolerance of the scores: storage rounds inputs, not the computation."""
