"""How many kernels one pair launches: each waits for the one before it, and costs more than it computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from img_deploy.model.branches import side_by_side
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import GraphSpec, graph_specs
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork

VIEWS = {
    *("alias", "as_strided", "chunk", "detach", "expand", "narrow", "permute", "reshape", "select", "slice", "split"),
    *("squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view"),
    *("flatten", "unflatten"),  # of what kernels give, which has no gaps
    *("empty", "empty_like", "empty_strided", "new_empty"),
}
"""Operators that launch nothing."""
OF_OPS = {"bigru": 2}
"""Launches of an op: one, but for the GRU, whose inputs meet their weights in a product of their own."""


class Launches(TorchDispatchMode):
    """Counts launches in series, and all of them. Ops count as their kernels; branches run side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.series, self.all = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, name = func._schema.name.split("::")
        launches = OF_OPS.get(name, 1) if namespace == "img_deploy" else int(name not in VIEWS)
        self.series += launches
        self.all += launches
        return out

    def together(self, *parts: Callable[[], Any]) -> list[Any]:
        before, longest, found = self.series, 0, []
        for part in parts:
            self.series = 0
            found.append(part())
            longest = max(longest, self.series)
        self.series = before + longest
        return found


@pytest.fixture(scope="module")
def launches_of() -> Callable[[str], Launches]:
    """Launches of a graph of the GloVe network at one sample in fp16."""
    torch.manual_seed(0)
    config = ModelConfig(video_dim=64, audio_dim=48, chars=30, dim=32, heads=4)
    network = IMGNetwork(config).eval().requires_grad_(False)
    packed, specs = PackedNetwork(network, "fp16", "cpu"), graph_specs(config)
    sizes = {"batch": 1, "clips": 19, "words": 7, "chars": 9}

    def count(graph: str) -> Launches:
        mode, inputs = Launches(), inputs_of(specs[graph], sizes)
        with side_by_side(mode.together), mode:
            packed(graph, inputs)
        return mode

    return count


def inputs_of(spec: GraphSpec, sizes: dict[str, int]) -> list[torch.Tensor]:
    inputs = []
    for tensor in spec.inputs:
        dtype = torch.float16 if tensor.dtype == "float" else getattr(torch, tensor.dtype)
        inputs.append(torch.ones([sizes.get(axis, axis) for axis in tensor.axes], dtype=dtype))
    return inputs


def test_one_pair_takes_at_most_30_launches_in_series(launches_of: Callable[[str], Launches]) -> None:
    """A small operator has come in between the kernels: 2 microseconds each, where a pair is to take 250."""
    counts = {graph: launches_of(graph).series for graph in ("video_encoder", "query_encoder", "grounder")}
    assert sum(counts.values()) <= 30, counts


def test_launches_in_all(launches_of: Callable[[str], Launches]) -> None:
    """What runs beside the longest path grows unseen."""
    counts = {graph: launches_of(graph).all for graph in ("video_encoder", "query_encoder", "grounder")}
    assert counts == {"video_encoder": 8, "query_encoder": 6, "grounder": 34}
