"""How fast is it? The network in every version, what it spends its time on, kernels one by one, the GRU per step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from img_deploy.benchmarks.on_gpu.clock import Call, Clock, Figures
from img_deploy.benchmarks.on_gpu.network import (
    FULL,
    GRAPHS,
    TINY,
    Eager,
    Feeds,
    Inputs,
    Outputs,
    Served,
    compiled,
    draw_feeds,
    on_device,
    ours,
    random_network,
)
from img_deploy.benchmarks.on_gpu.op_calls import OpCall, op_calls
from img_deploy.benchmarks.on_gpu.steps import RACED
from img_deploy.model.graphs import PAIR
from img_deploy.runtime.backends.protocol import BEST_SPAN, on_host

SETS = 3
"""Batches to rotate among."""
KERNELS, REPLAYS = 20, 5
"""Of a profile: how many kernels are told, over how many runs."""


def time_network(version: str, precision: str, batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """``latency`` and ``streaming`` of batches that lie on the GPU, in milliseconds per batch.

    ``version``: ``eager``, ``ours`` or ``torch.compile``.
    """
    inputs = [on_device(one, precision, clock.device) for one in _feeds(batch, clips, clock)]
    run = _version(version, precision, clock.device, inputs[0])
    calls = [partial(run, one) for one in inputs]
    return {"latency": clock.latency(calls), "streaming": clock.streaming(calls)}


def _feeds(batch: int, clips: int, clock: Clock) -> list[Feeds]:
    config = FULL if clock.on_cuda else TINY
    return [draw_feeds(config, (clips,) * batch, clips, seed) for seed in range(SETS)]


def _version(version: str, precision: str, device: str, like: Inputs) -> Callable[[Inputs], Outputs]:
    network = random_network(FULL if device == "cuda" else TINY)
    if version == "eager":
        return Eager(network, precision, device)
    if version == "ours":
        return ours(network, precision, device, like)
    return compiled(network, precision, device, like)


def time_served(precision: str, batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """Through the backend that serves answers, in milliseconds per batch.

    Returns:
        ``whole``: from features in host memory to the spans, one pair through one graph, more through three;
        ``encoded``: the same from clips and words that were encoded before and lie in host memory,
        ``encoded_streaming`` with two of them under way;
        ``kept``: from clips and words that stayed on the GPU.
    """
    feeds = _feeds(batch, clips, clock)
    served = Served(random_network(FULL if clock.on_cuda else TINY), precision, clock.device)

    def answer(given: Feeds, graphs: tuple[str, ...]) -> object:
        return served(given, graphs)[BEST_SPAN].tolist()

    kept = [served(one, GRAPHS[:2]) for one in feeds]
    encoded = [{name: on_host(values) for name, values in one.items()} for one in kept]
    whole, from_host, from_gpu = (
        [partial(answer, one, graphs) for one in given]
        for given, graphs in ((feeds, (PAIR,) if batch == 1 else GRAPHS), (encoded, GRAPHS[2:]), (kept, GRAPHS[2:]))
    )
    record = {
        "whole": clock.latency(whole),
        "encoded": clock.latency(from_host),
        "encoded_streaming": clock.overlapped(from_host),
        "kept": clock.latency(from_gpu),
    }
    served.backend.close()
    return record


def profile_network(precision: str, batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """Kernels of one replay of ours, those that take longest first.

    Returns:
        ``kernels``: [{``name``, ``launches``, ``us`` of all launches}]; ``launches`` and ``busy_us`` of all of them
        (branches that run side by side count twice). Without times on a CPU.
    """
    inputs = on_device(_feeds(batch, clips, clock)[0], precision, clock.device)
    run = _version("ours", precision, clock.device, inputs)
    run(inputs)
    if not clock.on_cuda:
        return {"kernels": [], "launches": None, "busy_us": None}
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(REPLAYS):
            run(inputs)
        torch.cuda.synchronize()
    events = [event for event in recorded.key_averages() if event.self_device_time_total > 0]
    events.sort(key=lambda event: -event.self_device_time_total)
    rows = [
        {"name": e.key[:80], "launches": e.count / REPLAYS, "us": e.self_device_time_total / REPLAYS} for e in events
    ]
    totals = {name: sum(row[name] for row in rows) for name in ("launches", "us")}
    return {"kernels": rows[:KERNELS], "launches": totals["launches"], "busy_us": totals["us"]}


def time_ops(op: str, precision: str, batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """``calls``: each form that the network calls an op in: ``call``, ``ours`` and ``eager`` (PyTorch's reference)."""
    config = FULL if clock.on_cuda else TINY
    with torch.inference_mode():
        found = op_calls(config, precision, clock.device, (clips,) * batch, clips, op)
        return {"calls": [_timed(call, clock) for call in found]}


def _timed(call: OpCall, clock: Clock) -> dict[str, Any]:
    return {"call": str(call), "ours": clock.graphed(call.kernel), "eager": clock.launched(call.reference)}


def time_gru(precision: str, batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """Each GRU layer of the network: ``calls``: ``call``, ``steps``, ``ours``, ``cudnn`` (``nn.GRU``, unpadded)."""
    config, rows = (FULL if clock.on_cuda else TINY), []
    with torch.inference_mode():
        for call in op_calls(config, precision, clock.device, (clips,) * batch, clips, "bigru"):
            rows.append(
                {"call": str(call), "steps": clips, "ours": clock.graphed(call.kernel), "cudnn": _cudnn(call, clock)}
            )
    return {"calls": rows}


def _cudnn(call: OpCall, clock: Clock) -> Figures | None:
    """All stacks of the layer as PyTorch's own GRUs over full sequences, one after the other."""
    x = call.arguments[0].permute(2, 0, 1, 3).contiguous()  # [S, B, L, I]
    hidden = call.reference().shape[-1] // 2
    grus = [nn.GRU(x.shape[-1], hidden, batch_first=True, bidirectional=True).to(x.device, x.dtype).eval() for _ in x]
    run: Call = lambda: [gru(own)[0] for gru, own in zip(grus, x, strict=True)]  # noqa: E731
    return clock.graphed(run)


def run_kernel_once(op: str, precision: str, clock: Clock) -> dict[str, Any]:
    """An op's kernel once on few and on many short samples: what a race check watches."""
    shapes = RACED[clock.device]
    config = FULL if clock.on_cuda else TINY
    calls = [call for lengths, n in shapes for call in op_calls(config, precision, clock.device, lengths, n, op)]
    for call in calls:
        call.kernel()
    if clock.on_cuda:
        torch.cuda.synchronize()
    return {"launches": len(calls)}
