"""The whole network, from features and words to logits, in the versions that are compared."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img_deploy.benchmarks.on_gpu.device import Call, Device
from img_deploy.benchmarks.published import published_network, unpadded_network
from img_deploy.kernels.interpreted import kernels_on_cpu
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import graph_specs
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.buckets import shape_of
from img_deploy.runtime.backends.packed_network import DTYPES, PackedNetwork

SEED = 0
WORDS = 10
CHARS = 8
GRAPHS = ("video_encoder", "query_encoder", "grounder")
OUTPUTS = ("start_logits", "end_logits", "importance", "saliency", "saliency_visual", "saliency_audio")
Feeds = dict[str, NDArray[Any]]
Inputs = dict[str, Tensor]
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class NetworkSizes:
    """The configuration that is timed, and its longest video in clips."""

    config: ModelConfig

    @classmethod
    def of(cls, device: Device) -> "NetworkSizes":
        """The published size on a GPU; a tiny network where kernels are interpreted."""
        if device.kind == "cuda":
            return cls(ModelConfig(chars=30))
        tiny = ModelConfig(video_dim=24, audio_dim=16, text_dim=12, chars=12, char_dim=6, dim=32, heads=4, max_clips=8)
        return cls(replace(tiny, slots=2, slot_iterations=2, gru_layers=2))


@lru_cache(maxsize=1)
def random_network(config: ModelConfig) -> IMGNetwork:
    """A network with random weights: speed does not depend on what they are. Not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = IMGNetwork(config)
    network.draw_slot_noise(SEED)
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=4)
def draw_feeds(config: ModelConfig, lengths: tuple[int, ...], clips: int, seed: int) -> Feeds:
    """Everything the three graphs are given for a batch of pairs, by name; ``lengths`` are the real clips of each.

    Kept for the versions that are timed on the same batches; not to be changed.
    """
    random = np.random.default_rng([SEED, seed, clips, len(lengths)])
    specs = graph_specs(config)
    sizes = {"batch": len(lengths), "clips": clips, "words": WORDS, "chars": CHARS}
    feeds: Feeds = {}
    for tensor in (*specs["video_encoder"].inputs, *specs["query_encoder"].inputs):
        shape = shape_of(tensor, sizes)
        if tensor.dtype == "float":
            feeds[tensor.name] = random.standard_normal(shape, np.float32)
        elif tensor.dtype == "int64":
            feeds[tensor.name] = random.integers(1, config.chars, shape)
        else:
            feeds[tensor.name] = np.zeros(shape, bool)
    feeds["clip_mask"] = np.arange(clips) < np.array(lengths)[:, None]
    feeds["word_mask"] = np.ones((len(lengths), WORDS), bool)
    return feeds


def on_device(feeds: Feeds, precision: str, device: str) -> Inputs:
    """Feeds as tensors, floating point ones in the precision's storage dtype."""
    tensors = {name: torch.from_numpy(values).to(device) for name, values in feeds.items()}
    return {name: one.to(DTYPES[precision]) if one.is_floating_point() else one for name, one in tensors.items()}


RunGraph = Callable[[str, list[Tensor]], Outputs]


class Chain(nn.Module):
    """The three graphs one after the other: from features and words to the grounder's outputs."""

    def __init__(self, network: IMGNetwork, run: RunGraph | None = None) -> None:
        super().__init__()
        specs = graph_specs(network.config)
        self.graphs = nn.ModuleDict({name: network.graphs[name] for name in GRAPHS})
        self._inputs = {name: [tensor.name for tensor in specs[name].inputs] for name in GRAPHS}
        self._outputs = {name: [tensor.name for tensor in specs[name].outputs] for name in GRAPHS}
        self._run = run

    def forward(self, inputs: Inputs) -> Outputs:
        known = dict(inputs)
        outputs: Outputs = ()
        for name in GRAPHS:
            given = [known[each] for each in self._inputs[name]]
            outputs = self.graphs[name](*given) if self._run is None else self._run(name, given)
            known.update(zip(self._outputs[name], outputs, strict=True))
        return outputs


class Eager:
    """PyTorch as it is, computing as the published code does: packed GRUs, all three heads."""

    def __init__(self, network: IMGNetwork, precision: str, device: Device) -> None:
        self._chain = Chain(published_network(network).to(device.kind, DTYPES[precision]))

    def __call__(self, inputs: Inputs) -> Outputs:
        with torch.inference_mode():
            out: Outputs = self._chain(inputs)
            return out


class Ours:
    """The kernels, all three graphs captured as one CUDA graph for inputs of one size.

    Inputs that lie on the GPU are copied into the graph's own memory at every call, which is part of its time.
    """

    def __init__(self, network: IMGNetwork, precision: str, device: Device, like: Inputs) -> None:
        packed = PackedNetwork(network, precision, device.kind)
        self._chain = Chain(packed.network, packed)
        self._own = {name: tensor.clone() for name, tensor in like.items()}
        self._replay, self._outputs = self._captured(device)

    def _captured(self, device: Device) -> tuple[Call, Any]:
        if device.kind == "cuda":
            from img_deploy.runtime.backends.cuda_capture import Place, captured

            self._place = Place()  # streams and memory live as long as the graph
            graph, outputs = captured(lambda: self._chain(self._own), self._place)
            return graph.replay, outputs
        return self._compute_again, None

    def _compute_again(self) -> None:
        with kernels_on_cpu():
            self._outputs = self._chain(self._own)

    def __call__(self, inputs: Inputs) -> Outputs:
        for name, own in self._own.items():
            own.copy_(inputs[name], non_blocking=True)
        self._replay()
        outputs: Outputs = self._outputs
        return outputs


class Compiled:
    """``torch.compile`` over the network for batches without padding (``nn.GRU`` unpacked, the fused head alone).

    Args:
        way: ``own graphs``: ``mode="max-autotune"``, which captures CUDA graphs between the GRUs; ``one graph``: its
            kernels without those, captured with the GRUs as one CUDA graph, as ours are.

    On a CPU the network is traced and run, but no code is made: that takes minutes and measures nothing.
    """

    WAYS = ("one graph", "own graphs")

    def __init__(self, network: IMGNetwork, precision: str, device: Device, like: Inputs, way: str) -> None:
        torch._dynamo.reset()
        self._captured = way == "one graph" and device.kind == "cuda"
        mode = "max-autotune" if way == "own graphs" else "max-autotune-no-cudagraphs"
        options: Mapping[str, Any] = {"mode": mode} if device.kind == "cuda" else {"backend": "eager"}
        chain = Chain(unpadded_network(network).to(device.kind, DTYPES[precision]))
        self._run = torch.compile(chain, dynamic=False, **options)
        self._own = {name: tensor.clone() for name, tensor in like.items()} if self._captured else {}
        if self._captured:
            with torch.no_grad():
                for _ in range(2):
                    self._run(self._own)
                self._replay, self._outputs = device.capture(lambda: self._run(self._own))

    def __call__(self, inputs: Inputs) -> Outputs:
        if not self._captured:
            # Without this a later call's graph may write where an earlier one's result lies, or refuse to.
            torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                out: Outputs = self._run(inputs)
                return out
        for name, own in self._own.items():
            own.copy_(inputs[name], non_blocking=True)
        self._replay()
        outputs: Outputs = self._outputs
        return outputs


def interpreted_if_cpu(device: Device) -> Any:
    """Context in which ops call kernels also on a CPU."""
    return nullcontext() if device.kind == "cuda" else kernels_on_cpu()
