"""What a plugin tells TensorRT to launch (grid, numbers, outputs, constants) computes what the op's reference does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.kernels.plugin_form import plugin_form
from img_deploy.kernels.plugin_ptx import PORTABLE, _configurations

NODES = sorted(json.loads((Path(__file__).parents[2] / "golden" / "trt" / "plugin_nodes.json").read_text()))


@pytest.fixture
def node_inputs(
    node_shapes: Callable[..., dict[str, tuple[int, ...]]], draw: Callable[..., Tensor], ragged_mask: Callable
) -> Callable[..., dict[str, Tensor]]:
    """``node_inputs(node, lengths, L=..., N=..., D=...)``: tensors of a node by name, fp32, ragged."""

    def inputs(node: str, lengths: list[int], **sizes: int) -> dict[str, Tensor]:
        drawn = {}
        for name, shape in node_shapes(node, B=len(lengths), **sizes).items():
            if name == "char_ids":
                drawn[name] = (draw(*shape, dtype=torch.float32).abs() * 4).long().clamp(max=10)
            elif name.endswith("mask") or name == "word_unknown":
                drawn[name] = ragged_mask([min(length, shape[1]) for length in lengths], shape[1])
            elif name == "lengths":
                drawn[name] = torch.tensor(lengths, dtype=torch.int32)
            else:
                scale = shape[-1] ** -0.5 if name.endswith("weight") else 0.5
                drawn[name] = draw(*shape, dtype=torch.float32, scale=scale)
                if name.startswith("norm") and name.endswith("weight"):
                    drawn[name] += 1
        return drawn

    return inputs


def type_of(output: str) -> torch.dtype:
    """An output's own type, or that of an input, which is fp32 here."""
    return getattr(torch, ELEMENT_TYPES.get(output, ELEMENT_TYPES["fp32"]).torch)


@pytest.mark.parametrize("clips", [1, 37])
@pytest.mark.parametrize("node", NODES)
def test_launching_as_declared_gives_the_reference(
    node: str, clips: int, node_inputs: Callable[..., dict[str, Tensor]], device: torch.device
) -> None:
    """A grid too small leaves clips unwritten; numbers or outputs in another order read the wrong memory."""
    lengths = [clips, max(1, clips // 3)]
    inputs = {name: each.to(device) for name, each in node_inputs(node, lengths, L=clips, N=5, D=32).items()}
    form = plugin_form(node)
    assert list(inputs) == list(form.inputs)
    sizes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    wanted = form.reference(list(inputs.values()))
    for variant in form.variants(sizes):
        if "fp32" not in variant.dtypes:
            continue
        config = next(_configurations(form, variant, "fp32", PORTABLE))
        outputs = [
            torch.empty(output.shape, dtype=type_of(output.dtype), device=device) for output in form.outputs(sizes)
        ]
        constants = {**variant.constexprs, **config.blocks}
        passed = [name for name in variant.kernel.arg_names if name not in constants]
        arguments = dict(zip(passed, [*inputs.values(), *form.extras(sizes), *outputs], strict=True))
        grid = form.grid(sizes, config.blocks)
        variant.kernel[grid](**arguments, **variant.constexprs, **config.launch_options())
        for output, each in zip(outputs, wanted, strict=True):
            torch.testing.assert_close(output, each, atol=2e-5, rtol=1e-4)
