"""TensorRT's own plugin code takes our registrations and gets from them the launches that the kernels need."""

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from img_deploy.kernels.plugin_form import plugin_form
from img_deploy.kernels.plugin_ptx import PORTABLE, _configurations

NODES = Path(__file__).parents[2] / "golden" / "trt" / "plugin_nodes.json"
SIZES = {"B": 3, "L": 37, "N": 5, "D": 32}
MEMBERS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int64": "INT64"}

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install --no-deps triton==3.6.0)"
)


@pytest.mark.parametrize("version", ["10.15.1.29", "10.16.1.11", "11.4.0.106"])
def test_every_plugin_is_taken_and_launched_as_declared(version: str, in_bindings: Callable[..., str]) -> None:
    """TensorRT rejects a registration, or launches a kernel over too few blocks or with other numbers."""
    found = json.loads(in_bindings(version, "plugins.py", NODES))
    assert found["version"] == version
    nodes = json.loads(NODES.read_text())
    assert set(found["nodes"]) == set(nodes)
    for node, axes in nodes.items():
        for storage, got in found["nodes"][node].items():
            assert got == expected(node, axes, storage), f"{node} {storage}"


def expected(node: str, axes: Mapping[str, list[int | str]], storage: str) -> dict[str, Any]:
    """The launches of a node by its declaration alone, at ``SIZES``."""
    form = plugin_form(node)
    sizes = {name: tuple(number(axis) for axis in each) for name, each in axes.items()}
    outputs = [
        [MEMBERS[storage if output.dtype in axes else output.dtype], list(output.shape)]
        for output in form.outputs(sizes)
    ]
    launches = []
    for variant in form.variants(sizes):
        if storage in variant.dtypes:
            config = next(_configurations(form, variant, storage, PORTABLE))
            grid = [*form.grid(sizes, config.blocks), 1, 1][:3]
            block = {"block_x": 32 * config.num_warps, "block_y": 1, "block_z": 1, "shared_mem": 1024}
            axes_of_grid = dict(zip(("grid_x", "grid_y", "grid_z"), grid, strict=True))
            launches.append({**axes_of_grid, **block, "extras": list(form.extras(sizes))})
    return {"outputs": outputs, "launches": launches}


def number(axis: int | str) -> int:
    return axis if isinstance(axis, int) else int(axis[:-1] or 1) * SIZES[axis[-1]]
