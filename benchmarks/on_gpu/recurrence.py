"""The GRU's loop over time by itself: microseconds per step, the Triton kernels and the CUDA C++ one side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from img_deploy.benchmarks.on_gpu.device import Device, Figures
from img_deploy.benchmarks.on_gpu.kernel_inputs import DTYPES, FULL, TINY, KernelCase, arguments
from img_deploy.benchmarks.on_gpu.recurrence_figures import CUDA
from img_deploy.errors import one_line
from img_deploy.kernels.bigru.cuda_recurrence import gru_recurrence_cuda
from img_deploy.kernels.bigru.kernel import bigru, gru_recurrence, input_gates
from img_deploy.kernels.bigru.reference import bigru as reference
from img_deploy.kernels.bigru.tolerances import TOLERANCES
from img_deploy.kernels.checking import in_float64, poisoned_outputs, share_of_tolerance

SECONDS = 0.1


@dataclass(frozen=True)
class RecurrenceCase:
    """One layer of GRUs: ``form`` as in ``kernel_inputs.FORMS``."""

    form: str
    batch: int
    clips: int
    dtype: str


def time_recurrence(case: RecurrenceCase, device: Device) -> dict[str, Any]:
    """Each way to run the layer of one case, after a check of each against float64.

    Returns:
        ``loops``: name -> {``share`` of the tolerance, ``ms`` of the loop alone, ``why`` it was not timed};
        ``layer``: the same for the layer, input gates included; ``cudnn``: PyTorch's ``nn.GRU`` on full sequences.
    """
    sizes = FULL if device.kind == "cuda" else TINY
    generator = torch.Generator(device.kind).manual_seed(7)
    kernel_case = KernelCase("bigru", case.form, case.batch, case.clips, case.dtype)
    x, lengths, ih, hh, ih_bias, hh_bias = arguments(kernel_case, sizes, device.kind, generator)
    expected = in_float64(reference, x, lengths, ih, hh, ih_bias, hh_bias)
    gates = input_gates(x, ih, ih_bias)
    loops: dict[str, Callable[[], Tensor]] = {"one_row": lambda: gru_recurrence(gates, lengths, hh, hh_bias, "one_row")}
    if case.dtype != "fp32":
        loops["batch_tile"] = lambda: gru_recurrence(gates, lengths, hh, hh_bias, "batch_tile")
    loops[CUDA] = lambda: gru_recurrence_cuda(gates, lengths, hh, hh_bias)
    tolerance = TOLERANCES["triton"][case.dtype]
    with torch.inference_mode():
        found = {name: _checked(loop, expected, tolerance, device) for name, loop in loops.items()}
        layer = _checked(lambda: bigru(x, lengths, ih, hh, ih_bias, hh_bias), expected, tolerance, device)
        return {"loops": found, "layer": layer, "cudnn": _cudnn(x, hh.shape[-1], DTYPES[case.dtype], device)}


def _checked(run: Callable[[], Tensor], expected: Tensor, tolerance: Any, device: Device) -> dict[str, Any]:
    try:
        with poisoned_outputs():
            share = share_of_tolerance(run(), expected, tolerance)
    except (RuntimeError, ValueError, OSError) as error:  # no nvcc, no driver, or a CPU
        return {"share": None, "ms": None, "why": one_line(error, 160)}
    if not share <= 1:
        return {"share": share, "ms": None, "why": f"failed its check: {share:.3g} times its tolerance"}
    return {"share": share, "ms": device.graphed([run] * 8, SECONDS), "why": None}


def _cudnn(x: Tensor, hidden: int, dtype: torch.dtype, device: Device) -> Figures | None:
    """All stacks of the layer as PyTorch's own GRUs over full sequences, one after the other."""
    grus = [
        nn.GRU(x.shape[-1], hidden, batch_first=True, bidirectional=True).to(device.kind, dtype).eval()
        for _ in range(x.shape[0])
    ]
    return device.graphed([lambda: [gru(own)[0] for gru, own in zip(grus, x, strict=True)]] * 4, SECONDS)
