"""The whole network, from features and words to logits, in the versions that are compared."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img_deploy.benchmarks.published import published_network, unpadded_network
from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import graph_specs
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.buckets import shape_of
from img_deploy.runtime.backends.triton.backend import TritonBackend
from img_deploy.runtime.backends.triton.captured_run import StaticRun
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork

SEED = 0
WORDS, CHARS = 10, 8
GRAPHS = ("video_encoder", "query_encoder", "grounder")
OUTPUTS = ("start_logits", "end_logits", "importance", "saliency", "saliency_visual", "saliency_audio")
FULL = ModelConfig(chars=30)
TINY = ModelConfig(
    video_dim=24, audio_dim=16, text_dim=12, chars=12, char_dim=6, dim=16, heads=2, max_clips=4, gru_layers=1,
    slots=2, slot_iterations=2,
)  # fmt: skip
"""For a machine without a GPU, where kernels are interpreted."""

Feeds = dict[str, NDArray[Any]]
Inputs = dict[str, Tensor]
Outputs = tuple[Tensor, ...]


@lru_cache(maxsize=1)
def random_network(config: ModelConfig) -> IMGNetwork:
    """A network with random weights: speed does not depend on what they are. Not to be changed.

    Every weight is off the value that it begins training with: a bias of zero would hide that it was forgotten.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        network = IMGNetwork(config)
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.draw_slot_noise(SEED)
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=8)
def draw_feeds(config: ModelConfig, lengths: tuple[int, ...], clips: int, seed: int = 0) -> Feeds:
    """What the three graphs are given for pairs of so many real clips, padded to ``clips``, by name. Read only."""
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


def storage_of(precision: str) -> torch.dtype:
    """The dtype that a precision stores weights and activations in."""
    dtype: torch.dtype = getattr(torch, ELEMENT_TYPES[precision].torch)
    return dtype


def on_device(feeds: Feeds, precision: str, device: str) -> Inputs:
    """Feeds as tensors, floating point ones in the precision's storage dtype."""
    tensors = {name: torch.from_numpy(values).to(device) for name, values in feeds.items()}
    return {name: one.to(storage_of(precision)) if one.is_floating_point() else one for name, one in tensors.items()}


class Chain(nn.Module):
    """The three graphs one after the other: from features and words to the grounder's outputs."""

    def __init__(self, network: IMGNetwork, run: Callable[[str, list[Tensor]], Outputs] | None = None) -> None:
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

    def __init__(self, network: IMGNetwork, precision: str, device: str) -> None:
        self._chain = Chain(published_network(network).to(device, storage_of(precision)))

    def __call__(self, inputs: Inputs) -> Outputs:
        with torch.inference_mode():
            out: Outputs = self._chain(inputs)
            return out


class Replayed:
    """A chain whose run on inputs of one size is captured as one CUDA graph, or run anew on a CPU.

    Inputs that lie on the GPU are copied into the graph's own memory at every call, which is part of its time.
    """

    def __init__(self, run: Callable[[Inputs], Outputs], device: str, like: Inputs) -> None:
        self._own = {name: tensor.clone() for name, tensor in like.items()}
        if device == "cuda":
            from img_deploy.runtime.backends.triton.captured_run import CaptureStream, captured

            self._stream = CaptureStream()  # its streams and memory live as long as the graph
            graph, self._outputs = captured(lambda: run(self._own), self._stream)
            self._replay: Callable[[], object] = graph.replay
        else:
            self._replay = lambda: setattr(self, "_outputs", run(self._own))

    def __call__(self, inputs: Inputs) -> Outputs:
        for name, own in self._own.items():
            own.copy_(inputs[name], non_blocking=True)
        self._replay()
        return self._outputs


def ours(network: IMGNetwork, precision: str, device: str, like: Inputs) -> Replayed:
    """The kernels, all three graphs in one CUDA graph; the references on a CPU."""
    packed = PackedNetwork(network, precision, device)
    return Replayed(Chain(packed.network, packed), device, like)


def compiled(network: IMGNetwork, precision: str, device: str, like: Inputs) -> Replayed:
    """``torch.compile`` over the network for batches without padding (``nn.GRU`` unpacked, the fused head alone).

    Its kernels and the GRUs between them are captured as one CUDA graph, as ours are. On a CPU the network is traced
    and run, but no code is made: that takes minutes and measures nothing.
    """
    torch._dynamo.reset()
    backend = "inductor" if device == "cuda" else "eager"
    plain = unpadded_network(network).to(device, storage_of(precision))
    chain = torch.compile(Chain(plain), dynamic=False, backend=backend)

    def run(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            out: Outputs = chain(inputs)
            return out

    run(like)  # traced here, where branches follow each other: Dynamo cannot trace the streams of a capture
    return Replayed(run, device, like)


class Served:
    """The backend that serves answers, without a bundle: captured graphs on a GPU, runs of ``on_cpu`` on a CPU."""

    def __init__(self, network: IMGNetwork, precision: str, device: str, on_cpu: type[StaticRun] = StaticRun) -> None:
        packed = PackedNetwork(network, precision, device)
        limits = {"clips": network.config.max_clips, "words": 2 * WORDS, "chars": 2 * CHARS}

        def on_new_stream() -> Callable[..., StaticRun]:
            if device == "cpu":
                return lambda spec, bucket: on_cpu(packed, spec, bucket)
            from img_deploy.runtime.backends.triton.captured_run import CapturedRun, CaptureStream

            stream = CaptureStream()
            return lambda spec, bucket: CapturedRun(packed, spec, bucket, stream)

        self.backend = TritonBackend(packed, limits, on_new_stream)

    def __call__(self, feeds: Feeds, graphs: tuple[str, ...] = GRAPHS) -> Feeds:
        """Everything that these graphs are given and give, by name; all of it in host memory."""
        known = dict(feeds)
        for graph in graphs:
            known.update(self.backend.run(graph, known))
        return known
