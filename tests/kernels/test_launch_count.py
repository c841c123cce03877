"""How many kernels one pair launches: each waits for the one before it, and costs more than it computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from img_deploy.model.branches import side_by_side
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import PAIR, GraphSpec, graph_specs, pair_spec
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.triton.captured_run import StaticRun
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
from img_deploy.runtime.backends.triton.run_outputs import run_spec

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
        same = out is args[0] and not name.endswith("_")  # a conversion to the type that it has
        launches = OF_OPS.get(name, 1) if namespace == "img_deploy" else int(name not in VIEWS and not same)
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


SIZES = {"batch": 1, "clips": 19, "words": 7, "chars": 9}


@pytest.fixture(scope="module")
def packed() -> PackedNetwork:
    """The GloVe network in fp16."""
    torch.manual_seed(0)
    config = ModelConfig(video_dim=64, audio_dim=48, chars=30, dim=32, heads=4)
    return PackedNetwork(IMGNetwork(config).eval().requires_grad_(False), "fp16", "cpu")


@pytest.fixture(scope="module")
def launches_of(packed: PackedNetwork) -> Callable[[str], Launches]:
    """Launches of a graph of it at one sample."""
    specs = graph_specs(packed.network.config)

    def count(graph: str) -> Launches:
        mode, inputs = Launches(), inputs_of(specs[graph], SIZES)
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


def test_a_pair_in_one_graph_takes_at_most_30_launches_in_series(packed: PackedNetwork) -> None:
    """The same of all that is captured for a pair: copies, both encoders side by side, the grounder, its span."""
    run = StaticRun(packed, run_spec(pair_spec(packed.network.config)), Bucket(PAIR, tuple(sorted(SIZES.items()))))
    mode = Launches()
    with side_by_side(mode.together), mode:
        run.launch()
    assert 20 < mode.series <= 30


def test_launches_in_all(launches_of: Callable[[str], Launches]) -> None:
    """What runs beside the longest path grows unseen."""
    counts = {graph: launches_of(graph).all for graph in ("video_encoder", "query_encoder", "grounder")}
    assert counts == {"video_encoder": 8, "query_encoder": 6, "grounder": 34}
