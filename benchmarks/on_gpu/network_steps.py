"""The whole network: how far ours is from eager float32, latency, throughput, and what holds it."""

import gc
from collections.abc import Callable, Mapping, Sequence
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

SECONDS = 0.3
"""Time per measurement; at least five rounds."""
LARGE = 64
"""From so many pairs on, two batches to rotate among are more than a cache holds; below, four."""
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
    """Each version against eager float32 on ragged batches, each sample's real clips only: on a GPU of few samples
    and of many, for which the kernels are not the same.

    Returns:
        ``eager`` (PyTorch itself in the precision), ``ours`` (one CUDA graph) and ``served`` (through the backend that
        serves answers): {``largest``, ``mean``, ``same_span``}, the worst of both batches; ``allowed``, ``passed``.
    """
    batches = [_accuracy(precision, device, times) for times in ((1,) if device.kind == "cpu" else (2, 10))]
    worst = {
        version: {
            "largest": max(batch[version]["largest"] for batch in batches),
            "mean": max(batch[version]["mean"] for batch in batches),
            "same_span": min(batch[version]["same_span"] for batch in batches),
        }
        for version in batches[0]
    }
    allowed = ALLOWED_FP32 if precision == "fp32" else max(ALLOWED_FP32, 2 * worst["eager"]["largest"])
    passed = worst["ours"]["largest"] <= allowed and worst["served"]["largest"] <= allowed
    return {**worst, "allowed": allowed, "passed": passed}


def _accuracy(precision: str, device: Device, times: int) -> dict[str, dict[str, float]]:
    """The versions on ``2 * times`` samples."""
    config = NetworkSizes.of(device).config
    network = random_network(config)
    longest = config.max_clips
    lengths = (longest, longest // 3) * times
    feeds = draw_feeds(config, lengths, longest, 1)
    exact = _named(Eager(network, "fp32", device)(on_device(feeds, "fp32", device.kind)))
    inputs = on_device(feeds, precision, device.kind)
    backend = backend_of(network, precision, device)
    found = {
        "eager": _named(Eager(network, precision, device)(inputs)),
        "ours": _named(Ours(network, precision, device, inputs)(inputs)),
        "served": {name: _served(backend, feeds, device)[name] for name in OUTPUTS},
    }
    backend.close()
    return {version: _compare(outputs, exact, lengths) for version, outputs in found.items()}


def _compare(found: Mapping[str, Any], exact: Mapping[str, Any], lengths: Sequence[int]) -> dict[str, float]:
    differences = []
    for got, wanted in ((found[name], exact[name]) for name in OUTPUTS):
        for row, length in enumerate(lengths):
            part = np.s_[row, :length] if wanted.ndim > 1 else np.s_[row : row + 1]
            differences.append(np.abs(got[part].astype(np.float64) - wanted[part]))
    flat = np.concatenate(differences)
    best = [decode_spans(out["start_logits"], out["end_logits"], lengths) for out in (found, exact)]
    same = [one[0][:2] == other[0][:2] for one, other in zip(*best, strict=True)]
    # A value that is missing must not pass for a small difference.
    largest = float(flat.max()) if np.isfinite(flat).all() else float("inf")
    return {"largest": largest, "mean": float(flat.mean()), "same_span": float(np.mean(same))}


def _named(outputs: Outputs) -> dict[str, Any]:
    return {name: value.float().cpu().numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}


def time_network(case: NetworkCase, device: Device) -> dict[str, Any]:
    """``latency`` and ``throughput`` in milliseconds per batch; ours also ``end_to_end``, from features in host memory
    through the triton backend to the spans."""
    gc.collect()
    device.empty_cache()
    config = NetworkSizes.of(device).config
    network = random_network(config)
    clips = min(case.clips, config.max_clips)
    batch = case.batch if device.kind == "cuda" else min(case.batch, 2)
    feeds = [draw_feeds(config, (clips,) * batch, clips, seed) for seed in range(2 if batch >= LARGE else 4)]
    inputs = [on_device(one, case.precision, device.kind) for one in feeds]
    run = _version(case, network, device, inputs[0])
    calls = [_call(run, one) for one in inputs]
    record: dict[str, Any] = {
        "latency": device.latency(calls, SECONDS),
        "throughput": device.throughput(calls, SECONDS),
    }
    if case.version == "ours":
        record["end_to_end"] = _end_to_end(network, case.precision, device, feeds)
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
        found = _served(backend, given, device)
        return decode_spans(found["start_logits"], found["end_logits"], given["clip_mask"].sum(axis=1))

    figures = device.latency([_call(run, one) for one in feeds], SECONDS)
    backend.close()
    return figures


def _served(backend: TritonBackend, feeds: Feeds, device: Device) -> dict[str, Any]:
    """Everything that the three graphs are given and give, by name."""
    known: dict[str, Any] = dict(feeds)
    with interpreted_if_cpu(device):
        for graph in GRAPHS:
            known.update(backend.run(graph, known))
    return known


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
