"""What this card reaches at most: bytes per second of a copy, FLOP/s of a matrix product in each precision."""

from collections.abc import Callable
from typing import Any

import torch

from img_deploy.benchmarks.on_gpu.device import Device

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
COPY = "copy"
CASES = (COPY, *DTYPES)
SECONDS = 0.5
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 16}
SIDE = {"cuda": 8192, "cpu": 64}
"""Rows and columns of the matrices that are multiplied."""


def ceiling(case: str, device: Device) -> dict[str, Any]:
    """One ceiling: ``per_second`` in bytes (read and written) or FLOP; None where it is not measured.

    Matrices hold random values: with zeros a card draws less power and runs faster. Full float32 products, no TF32.
    """
    ms, work = _copy(device) if case == COPY else _product(DTYPES[case], device)
    return {"per_second": None if ms is None else work / (ms * 1e-3), "work": work, "ms": ms}


def _copy(device: Device) -> tuple[float | None, int]:
    source = torch.randn(COPY_BYTES[device.kind] // 4, device=device.kind)
    target = torch.empty_like(source)
    return _median(device, lambda: target.copy_(source)), 2 * source.numel() * 4


def _product(dtype: torch.dtype, device: Device) -> tuple[float | None, int]:
    side = SIDE[device.kind]
    if dtype == torch.float32:
        side //= 2  # without tensor cores
    a, b = (torch.randn(side, side, device=device.kind).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return _median(device, lambda: torch.mm(a, b, out=out)), 2 * side**3


def _median(device: Device, call: Callable[[], object]) -> float | None:
    figures = device.launched([call, call], SECONDS)
    return None if figures is None else figures["p50"]
