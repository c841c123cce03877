"""The whole network: how far ours is from eager float32, latency, throughput, and what holds it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from img_deploy.benchmarks.on_gpu.device import Call, Device
from img_deploy.benchmarks.on_gpu.network_versions import (
    CHARS,
    GRAPHS,
    OUTPUTS,
    WORDS,
    Compiled,
    Eager,
    Feeds,
    Inputs,
    NetworkSizes,
    Ours,
    Outputs,
    draw_feeds,
    interpreted_if_cpu,
    on_device,
    random_network,
)
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.packed_network import PackedNetwork
from img_deploy.runtime.backends.static_buffers import StaticRun
from img_deploy.runtime.backends.triton_graphs import TritonBackend
from img_deploy.runtime.spans import decode_spans

SECONDS = 0.5
"""Time per measurement; at least five rounds."""
SETS = 4
"""Batches that the calls rotate among."""
ALLOWED_FP32 = 1e-4
"""Largest difference from eager float32 with which fp32 passes. A half precision passes at twice what eager PyTorch
itself loses in it: random weights amplify rounding more than trained ones do."""


@dataclass(frozen=True)
class NetworkCase:
    """A version of the network at one size: ``version`` is ``eager``, ``ours`` or one of ``Compiled.WAYS``."""

    version: str
    precision: str
    batch: int
    clips: int


def accuracy(precision: str, device: Device) -> dict[str, Any]:
    """Ours and eager PyTorch in a precision, each against eager float32 on a ragged batch, each sample real clips only.

    Returns:
        ``ours`` and ``eager``: {``largest``, ``mean``, ``same_span``}; ``allowed`` and ``passed``.
    """
    config = NetworkSizes.of(device).config
    network = random_network(config)
    longest = config.max_clips
    lengths = [longest, 1, max(1, longest // 3), longest - 1] * (1 if device.kind == "cpu" else 5)  # 20: many samples
    feeds = draw_feeds(config, lengths, longest, 1)
    exact = Eager(network, "fp32", device)(on_device(feeds, "fp32", device.kind))
    eager = Eager(network, precision, device)(on_device(feeds, precision, device.kind))
    inputs = on_device(feeds, precision, device.kind)
    ours = Ours(network, precision, device, inputs)(inputs)
    record = {"ours": _compare(ours, exact, lengths), "eager": _compare(eager, exact, lengths)}
    allowed = ALLOWED_FP32 if precision == "fp32" else max(ALLOWED_FP32, 2 * record["eager"]["largest"])
    return {**record, "allowed": allowed, "passed": record["ours"]["largest"] <= allowed, "samples": len(lengths)}


def _compare(found: Outputs, exact: Outputs, lengths: Sequence[int]) -> dict[str, float]:
    differences = []
    for got, wanted in zip(_named(found).values(), _named(exact).values(), strict=True):
        for row, length in enumerate(lengths):
            part = np.s_[row, :length] if wanted.ndim > 1 else np.s_[row : row + 1]
            differences.append(np.abs(got[part].astype(np.float64) - wanted[part]))
    flat = np.concatenate(differences)
    best = [decode_spans(out["start_logits"], out["end_logits"], lengths) for out in map(_named, (found, exact))]
    same = [one[0][:2] == other[0][:2] for one, other in zip(*best, strict=True)]
    # A value that is missing must not pass for a small difference.
    largest = float(flat.max()) if np.isfinite(flat).all() else float("inf")
    return {"largest": largest, "mean": float(flat.mean()), "same_span": float(np.mean(same))}


def _named(outputs: Outputs) -> dict[str, Any]:
    return {name: value.float().cpu().numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}


def time_network(case: NetworkCase, device: Device) -> dict[str, Any]:
    """``latency`` and ``throughput`` in milliseconds per batch; ours also ``end_to_end``, from features in host memory
    through the triton backend to the spans."""
    config = NetworkSizes.of(device).config
    network = random_network(config)
    clips = min(case.clips, config.max_clips)
    batch = case.batch if device.kind == "cuda" else min(case.batch, 2)
    feeds = [draw_feeds(config, [clips] * batch, clips, seed) for seed in range(SETS)]
    inputs = [on_device(one, case.precision, device.kind) for one in feeds]
    run = _version(case, network, device, inputs[0])
    calls = [_call(run, one) for one in inputs]
    record: dict[str, Any] = {
        "latency": device.latency(calls, SECONDS),
        "throughput": device.throughput(calls, SECONDS),
    }
    if case.version == "ours":
        record["end_to_end"] = _end_to_end(network, case.precision, device, feeds)
    device.empty_cache()
    return record


def _version(case: NetworkCase, network: IMGNetwork, device: Device, like: Inputs) -> Callable[[Inputs], Outputs]:
    if case.version == "eager":
        return Eager(network, case.precision, device)
    if case.version == "ours":
        return Ours(network, case.precision, device, like)
    return Compiled(network, case.precision, device, like, case.version)


def _call(run: Callable[[Any], object], given: Any) -> Call:
    return lambda: run(given)


def _end_to_end(network: IMGNetwork, precision: str, device: Device, feeds: Sequence[Feeds]) -> Any:
    backend = backend_of(network, precision, device)

    def run(given: Feeds) -> object:
        known: dict[str, Any] = dict(given)
        with interpreted_if_cpu(device):
            for graph in GRAPHS:
                known.update(backend.run(graph, known))
        return decode_spans(known["start_logits"], known["end_logits"], given["clip_mask"].sum(axis=1))

    figures = device.latency([_call(run, one) for one in feeds], SECONDS)
    backend.close()
    return figures


def backend_of(network: IMGNetwork, precision: str, device: Device) -> TritonBackend:
    """The backend that serves answers, without a bundle: captured graphs on a GPU, plain runs on a CPU."""
    packed = PackedNetwork(network, precision, device.kind)
    limits = {"clips": network.config.max_clips, "words": 2 * WORDS, "chars": 2 * CHARS}

    def lane() -> Callable[..., StaticRun]:
        if device.kind == "cpu":
            return lambda spec, bucket: StaticRun(packed, spec, bucket)
        from img_deploy.runtime.backends.cuda_capture import CapturedRun, Place

        place = Place()
        return lambda spec, bucket: CapturedRun(packed, spec, bucket, place)

    return TritonBackend(packed, precision, limits, lane, device.empty_cache)
