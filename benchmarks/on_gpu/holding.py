"""What a captured run of the network spends its time on: the profile that a missed goal is explained by."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from img_deploy.benchmarks.on_gpu.device import Device
from img_deploy.benchmarks.on_gpu.network_steps import NetworkCase
from img_deploy.benchmarks.on_gpu.network_versions import NetworkSizes, Ours, draw_feeds, on_device, random_network

KERNELS = 15
REPLAYS = 5


def profile_ours(case: NetworkCase, device: Device) -> dict[str, Any]:
    """Kernels of one replay, those that take longest first.

    Returns:
        ``kernels``: [{``name``, ``launches``, ``us`` of all launches}]; ``launches`` and ``busy_us`` of all kernels
        (branches that run side by side count twice). All per replay; None for times on a CPU.
    """
    config = NetworkSizes.of(device).config
    clips = min(case.clips, config.max_clips)
    batch = case.batch if device.kind == "cuda" else 1
    inputs = on_device(draw_feeds(config, (clips,) * batch, clips, 0), case.precision, device.kind)
    run = Ours(random_network(config), case.precision, device, inputs)
    run(inputs)
    on_cuda = device.kind == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as recorded:
        for _ in range(REPLAYS):
            run(inputs)
        if on_cuda:
            torch.cuda.synchronize()
    rows = [
        {
            "name": event.key[:80],
            "launches": event.count / REPLAYS,
            "us": event.self_device_time_total / REPLAYS if on_cuda else None,
        }
        for event in recorded.key_averages()
        if not on_cuda or event.self_device_time_total > 0
    ]
    rows.sort(key=lambda row: -(row["us"] or 0.0))
    return {
        "kernels": rows[:KERNELS],
        "launches": sum(row["launches"] for row in rows),
        "busy_us": sum(row["us"] for row in rows) if on_cuda else None,
    }
