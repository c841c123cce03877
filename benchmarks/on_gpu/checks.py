"""Is it right? Kernels against their references in float64, and the network against eager float32."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from img_deploy.benchmarks.on_gpu.clock import Clock
from img_deploy.benchmarks.on_gpu.network import (
    FULL,
    OUTPUTS,
    TINY,
    Eager,
    Outputs,
    Served,
    draw_feeds,
    on_device,
    ours,
    random_network,
)
from img_deploy.benchmarks.on_gpu.op_calls import OpCall, op_calls, reference_of
from img_deploy.benchmarks.on_gpu.steps import CHECKED
from img_deploy.kernels.checking import (
    Tolerance,
    in_float64,
    largest_difference,
    poisoned_outputs,
    share_of_tolerance,
)
from img_deploy.runtime.spans import decode_spans

ALLOWED_FP32 = 1e-4
"""Largest difference from eager float32 with which fp32 passes, as a share of the output's largest value where that is
above 1. A half precision passes at twice what eager PyTorch itself loses in it: random weights amplify rounding more
than trained ones do."""


def check_op(op: str, precision: str, clock: Clock) -> dict[str, Any]:
    """An op's kernel in one storage dtype, in all the forms that the network calls it in.

    Returns:
        ``passed``; ``checks``, how many; ``difference``, the largest; ``share``, of the tolerance, at most 1 to pass.
    """
    tolerance: Tolerance = import_module(f"img_deploy.kernels.{op}.reference").TOLERANCES[precision]
    config = FULL if clock.on_cuda else TINY
    found = [
        _check(call, tolerance)
        for lengths, clips in CHECKED[clock.device]
        for call in op_calls(config, precision, clock.device, lengths, clips, op)
    ]
    difference, share = (max(values) for values in zip(*found, strict=True))
    return {"passed": share <= 1, "checks": len(found), "difference": difference, "share": share}


def _check(call: OpCall, tolerance: Tolerance) -> tuple[float, float]:
    """Largest difference and its share of the tolerance; infinite where a value is missing."""
    expected = in_float64(reference_of(call.op), *call.arguments)
    with poisoned_outputs():
        got = call.kernel()
    if call.op != "best_spans":
        parts = [(got, expected)] if isinstance(got, torch.Tensor) else list(zip(got, expected, strict=True))
        # Masked logits are -1e30, which float32 rounds by more than any other difference.
        parts = [(one.clamp(min=-1e4), other.clamp(min=-1e4)) for one, other in parts]
        return (
            max(largest_difference(one, other) for one, other in parts),
            max(share_of_tolerance(one, other, tolerance) for one, other in parts),
        )
    (spans, scores), (_, wanted) = got, expected
    told = _scores_of(spans, call.arguments) * (wanted > 0)
    shares = (share_of_tolerance(one, wanted, tolerance) for one in (scores, told))
    return largest_difference(scores, wanted), max(shares)


def _scores_of(spans: torch.Tensor, arguments: Sequence[Any]) -> torch.Tensor:
    """The scores that the spans found have: among equal ones a kernel may choose another than the reference."""
    start, end, mask = (one.cpu() for one in arguments[:3])
    parts = [torch.softmax(x.double().masked_fill(~mask, -1e30), -1) * mask for x in (start, end)]
    every = (parts[0][:, :, None] * parts[1][:, None, :]).triu().flatten(1)
    i, j = spans.cpu().clamp(0, mask.shape[1] - 1).unbind(-1)
    return every.gather(1, i * mask.shape[1] + j)


def check_network(precision: str, clock: Clock) -> dict[str, Any]:
    """Each version against eager float32 on ragged batches, each sample's real clips only, of few samples and of many.

    Differences are shares of an output's largest value where that is above 1.

    Returns:
        ``eager`` (PyTorch itself in the precision), ``ours`` (one CUDA graph) and ``served`` (through the backend that
        serves answers): {``largest``, ``mean``, ``same_span``}, the worst of all batches; ``allowed``, ``passed``.
    """
    batches = [_differences(precision, clock, times) for times in ((2, 10) if clock.on_cuda else (1,))]
    worst = {
        version: {
            "largest": max(batch[version]["largest"] for batch in batches),
            "mean": max(batch[version]["mean"] for batch in batches),
            "same_span": min(batch[version]["same_span"] for batch in batches),
        }
        for version in batches[0]
    }
    allowed = ALLOWED_FP32 if precision == "fp32" else max(ALLOWED_FP32, 2 * worst["eager"]["largest"])
    passed = max(worst["ours"]["largest"], worst["served"]["largest"]) <= allowed
    return {**worst, "allowed": allowed, "passed": passed}


def _differences(precision: str, clock: Clock, times: int) -> dict[str, dict[str, float]]:
    """The versions on ``2 * times`` samples."""
    config, device = (FULL if clock.on_cuda else TINY), clock.device
    network, longest = random_network(config), config.max_clips
    lengths = (longest, longest // 3) * times
    feeds = draw_feeds(config, lengths, longest)
    exact = _named(Eager(network, "fp32", device)(on_device(feeds, "fp32", device)))
    inputs = on_device(feeds, precision, device)
    served = Served(network, precision, device)
    found = {
        "eager": _named(Eager(network, precision, device)(inputs)),
        "ours": _named(ours(network, precision, device, inputs)(inputs)),
        "served": {name: served(feeds)[name] for name in OUTPUTS},
    }
    served.backend.close()
    return {version: _compare(outputs, exact, lengths) for version, outputs in found.items()}


def _compare(found: Mapping[str, Any], exact: Mapping[str, Any], lengths: Sequence[int]) -> dict[str, float]:
    flat = np.concatenate(list(_gaps(found, exact, lengths)))
    best = [decode_spans(out["start_logits"], out["end_logits"], lengths) for out in (found, exact)]
    same = [one[0][:2] == other[0][:2] for one, other in zip(*best, strict=True)]
    # A value that is missing must not pass for a small difference.
    largest = float(flat.max()) if np.isfinite(flat).all() else float("inf")
    return {"largest": largest, "mean": float(flat.mean()), "same_span": float(np.mean(same))}


def _gaps(found: Mapping[str, Any], exact: Mapping[str, Any], lengths: Sequence[int]) -> Iterator[Any]:
    for got, wanted in ((found[name], exact[name]) for name in OUTPUTS):
        parts = [np.s_[row, :length] if wanted.ndim > 1 else np.s_[row : row + 1] for row, length in enumerate(lengths)]
        size = max(1.0, *(np.abs(wanted[part]).max() for part in parts))
        for part in parts:
            yield np.abs(got[part].astype(np.float64) - wanted[part]) / size


def _named(outputs: Outputs) -> dict[str, Any]:
    return {name: value.float().cpu().numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}
