"""Kernels one by one: against float64, then timed beside their references as PyTorch runs and as it compiles them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from img_deploy.benchmarks.on_gpu.device import Call, Device
from img_deploy.benchmarks.on_gpu.kernel_inputs import (
    FULL,
    TINY,
    KernelCase,
    Sizes,
    arguments,
    bytes_of,
    flops_of,
    kernel_of,
    reference_of,
)
from img_deploy.errors import one_line
from img_deploy.kernels.checking import in_float64, largest_difference, poisoned_outputs, share_of_tolerance
from img_deploy.kernels.tolerance import Tolerance

SECONDS = 0.06
"""Time per measurement; at least five rounds."""
CHECKED = {
    "cuda": (((1,), 1), ((3, 0, 31), 31), ((128, 77, 1), 128), (tuple(range(0, 19)), 64)),
    "cpu": (((5, 0), 5), ((2, *(1,) * 15), 2)),
}
"""(real clips of each sample, clips) of the checks: few samples and many, ragged, some fully masked."""


@dataclass(frozen=True)
class Check:
    """How far a kernel is from its reference in float64."""

    difference: float
    """Largest absolute difference."""
    share: float
    """Largest difference as a share of the tolerance there: at most 1 passes."""


def check(op: str, dtype: str, forms: Sequence[str], device: Device) -> dict[str, Any]:
    """An op's kernel in one storage dtype against its reference in float64, over all its forms and variants."""
    tolerance: Tolerance = import_module(f"img_deploy.kernels.{op}.tolerances").TOLERANCES["triton"][dtype]
    sizes = FULL if device.kind == "cuda" else TINY
    found = [one for form in forms for one in _checks(op, form, dtype, device, sizes, tolerance)]
    share = max(one.share for one in found)
    return {
        "passed": share <= 1,  # NaN and infinity are not
        "checks": len(found),
        "difference": max(one.difference for one in found),
        "share": share,
        "absolute": tolerance.absolute,
        "relative": tolerance.relative,
    }


def _checks(op: str, form: str, dtype: str, device: Device, sizes: Sizes, tolerance: Tolerance) -> Iterator[Check]:
    generator = torch.Generator(device.kind).manual_seed(2508)
    for lengths, clips in CHECKED[device.kind][: None if _has_variants(op) or device.kind == "cuda" else 1]:
        case = KernelCase(op, form, len(lengths), clips, dtype)
        given = arguments(case, sizes, device.kind, generator, lengths)
        expected = in_float64(reference_of(op), *given)
        for kernel in _kernels(op, dtype):
            with poisoned_outputs():
                got = kernel(*given)
            if op == "best_spans":
                yield _spans(given, got, expected, tolerance)
            else:
                yield Check(largest_difference(got, expected), share_of_tolerance(got, expected, tolerance))


def _has_variants(op: str) -> bool:
    """Whether the op's kernel is another one for many samples."""
    return hasattr(import_module(f"img_deploy.kernels.{op}.kernel"), "crowd")


def _kernels(op: str, dtype: str) -> list[Callable[..., Any]]:
    """The host function; for the GRU each of its kernels, which it chooses among by the size of the batch."""
    if op != "bigru":
        return [kernel_of(op)]
    module = import_module("img_deploy.kernels.bigru.kernel")

    def layer(variant: str) -> Callable[..., Tensor]:
        def run(x: Tensor, lengths: Tensor, ih: Tensor, hh: Tensor, ih_bias: Tensor, hh_bias: Tensor) -> Tensor:
            gates = module.input_gates(x, ih, ih_bias)
            out: Tensor = module.gru_recurrence(gates, lengths, hh, hh_bias, variant)
            return out

        return run

    return [layer("one_row"), *([] if dtype == "fp32" else [layer("batch_tile")])]


def _spans(given: Sequence[Any], got: Any, expected: Any, tolerance: Tolerance) -> Check:
    """Scores as any other result; and each span found is real and has the score that was told."""
    (spans, scores), (_, wanted) = got, expected
    share = share_of_tolerance(scores, wanted, tolerance)
    start, end, mask = (one.cpu() for one in given[:3])
    parts = [torch.softmax(x.double().masked_fill(~mask, -1e30), -1) * mask for x in (start, end)]
    table = (parts[0][:, :, None] * parts[1][:, None, :]).triu().flatten(1)
    i, j = spans.cpu().clamp(0, mask.shape[1] - 1).unbind(-1)
    told = table.gather(1, i * mask.shape[1] + j) * (wanted > 0)
    return Check(largest_difference(scores, wanted), max(share, share_of_tolerance(told, wanted, tolerance)))


def time_kernel(case: KernelCase, device: Device) -> dict[str, Any]:
    """One op beside its reference: ``ours``, ``eager`` (both without the host's part), ``eager_launched``.

    A figure is None where it was not measured; ``notes`` say why, except on a CPU, where nothing is.
    """
    sizes = FULL if device.kind == "cuda" else TINY
    inputs = _sets(case, sizes, device)
    kernel, reference = kernel_of(case.op), reference_of(case.op)
    record: dict[str, Any] = {**_work(case, sizes, inputs[0], kernel(*inputs[0])), "sets": len(inputs), "notes": []}
    with torch.inference_mode():
        record["ours"] = device.graphed(_calls(kernel, inputs), SECONDS)
        try:
            record["eager"] = device.graphed(_calls(reference, inputs), SECONDS)
        except RuntimeError as error:
            record |= {"eager": None, "notes": [f"the reference could not be captured ({one_line(error, 200)})"]}
        record["eager_launched"] = device.launched(_calls(reference, inputs), SECONDS)
    return record


def time_compiled(case: KernelCase, device: Device) -> dict[str, Any]:
    """One op's reference as ``torch.compile(mode="max-autotune")`` makes it, captured like the kernel: ``compiled``."""
    sizes = FULL if device.kind == "cuda" else TINY
    inputs = _sets(case, sizes, device)
    torch._dynamo.reset()
    # The capture is ours, the same as for the kernel; "max-autotune" alone would capture and copy by itself.
    how: dict[str, str] = {"mode": "max-autotune-no-cudagraphs"} if device.kind == "cuda" else {"backend": "eager"}
    compiled = torch.compile(reference_of(case.op), dynamic=False, **how)  # type: ignore[call-overload]
    with torch.inference_mode():
        return {"compiled": device.graphed(_calls(compiled, inputs), SECONDS)}


def _sets(case: KernelCase, sizes: Sizes, device: Device) -> list[list[Any]]:
    """Argument lists to rotate among, weights included, together more than the L2 cache holds."""
    generator = torch.Generator(device.kind).manual_seed(2508)
    first = arguments(case, sizes, device.kind, generator)
    count = device.sets(bytes_of(first))
    return [first, *(arguments(case, sizes, device.kind, generator) for _ in range(count - 1))]


def _calls(function: Callable[..., Any], inputs: Sequence[Sequence[Any]]) -> list[Call]:
    def call(given: Sequence[Any]) -> Call:
        return lambda: function(*given)

    return [call(given) for given in inputs]


def _work(case: KernelCase, sizes: Sizes, given: Sequence[Any], out: Any) -> dict[str, int]:
    """The fewest bytes that the op moves (each input read and each output written once), and its FLOP."""
    return {"bytes": bytes_of(given) + bytes_of(out), "flops": flops_of(case, sizes)}


def _line(error: Exception) -> str:
    return one_line(error, 160)
