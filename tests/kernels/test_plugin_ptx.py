"""PTX of the plugins: arguments, scratch, version, shared memory, and that an assembler takes it."""

import json
import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.plugin_form import plugin_form
from img_deploy.kernels.plugin_names import plugin_name

NODES = sorted(json.loads((Path(__file__).parents[1] / "golden" / "trt" / "plugin_nodes.json").read_text()))
FULL_SIZE = {"B": 64, "L": 128, "N": 32, "D": 128}

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install --no-deps triton==3.6.0)"
)


@pytest.fixture(scope="session")
def kernels_of(node_shapes: Callable, node_types: Callable) -> Callable:
    """``kernels_of(node, storage, target)``: compiled for a network of full size."""
    from img_deploy.kernels.plugin_ptx import plugin_kernels

    def compile_(node: str, storage: str, target: object) -> object:
        types = list(node_types(node, storage).values())
        return plugin_kernels(node, types, node_shapes(node, **FULL_SIZE), target)

    return compile_


def assembled(ptx: str, architecture: str, folder: Path) -> str:
    """What the assembler says of PTX."""
    from triton import knobs

    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={architecture}", str(source), "-o", str(folder / "cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def parameters(ptx: str) -> list[str]:
    return [line.split()[1] for line in re.search(r"\.entry[^(]*\(([^)]*)\)", ptx)[1].split(",")]


@needs_triton
@pytest.mark.parametrize("node", NODES)
def test_portable_ptx_is_what_tensorrt_can_launch(node: str, kernels_of: Callable, tmp_path: Path) -> None:
    """A kernel with more parameters than TensorRT passes reads past them; newer PTX is refused by a driver."""
    from img_deploy.kernels.plugin_ptx import PLAIN_SHARED_BYTES, PORTABLE

    form = plugin_form(node)
    sizes = dict.fromkeys(form.inputs, (2,) * 8)
    wanted = [".u64"] * len(form.inputs) + [".u32"] * len(form.extras(sizes)) + [".u64"] * len(form.outputs(sizes))
    kernels = kernels_of(node, "fp16", PORTABLE)
    assert len({kernel.digest for kernel in kernels}) == len(kernels) >= 1
    for kernel in kernels:
        assert parameters(kernel.ptx) == wanted
        assert re.search(r"^\.version 8\.3$", kernel.ptx, re.MULTILINE)
        assert re.search(r"^\.target sm_80$", kernel.ptx, re.MULTILINE)
        assert f".reqntid {kernel.threads}" in kernel.ptx
        assert kernel.shared_bytes <= PLAIN_SHARED_BYTES, f"{kernel.tuning}: {kernel.shared_bytes}"
        report = assembled(kernel.ptx, "sm_80", tmp_path)
        assert kernel.name in report
        assembled(kernel.ptx, "sm_120", tmp_path)  # portable: newer GPUs assemble it too


@needs_triton
@pytest.mark.parametrize(
    ("capability", "target", "version"),
    [(86, "sm_86", "8.3"), (90, "sm_90a", "8.3"), (100, "sm_100a", "8.6"), (120, "sm_120a", "8.7")],
)
def test_ptx_of_a_gpu_is_for_it_and_no_newer_than_needed(
    capability: int, target: str, version: str, kernels_of: Callable
) -> None:
    """Triton's newest PTX version needs a newer driver than TensorRT itself does."""
    from img_deploy.kernels.plugin_ptx import Target

    for kernel in kernels_of("ImgBestSpans5", "fp32", Target(capability)):
        assert re.search(rf"^\.version {re.escape(version)}$", kernel.ptx, re.MULTILINE)
        assert re.search(rf"^\.target {target}$", kernel.ptx, re.MULTILINE)


@needs_triton
def test_a_scratch_pointer_that_is_used_is_refused() -> None:
    """Dropping a parameter that the kernel reads would make it read another argument's memory."""
    from img_deploy.kernels.plugin_ptx import without_scratch

    head = ".visible .entry k(\n.param .u64 k_param_0,\n.param .u64 k_param_1\n)\n.reqntid 32\n"
    plain = without_scratch(head + "{ ld.param.b64 %rd1, [k_param_0]; }", "k", 1)
    assert parameters(plain) == [".u64"]
    assert "k_param_1" not in plain
    with pytest.raises(ValueError, match="reads k_param_1"):
        without_scratch(head + "{ ld.param.b64 %rd1, [k_param_1]; }", "k", 1)
    with pytest.raises(ValueError, match="2 parameters, expected 3"):
        without_scratch(head, "k", 3)
    with pytest.raises(ValueError, match="no entry"):
        without_scratch(head, "other", 1)


@needs_triton
@pytest.mark.parametrize(
    "arguments",
    [
        ["out_ptr", "x_ptr", "clips"],
        ["x_ptr", "out_ptr", "clips"],
        ["x_ptr", "clips", "more", "out_ptr"],
        ["x_ptr", "clips"],
        ["x_ptr", "clips", "out_ptr", "second_ptr"],
    ],
)
def test_arguments_in_another_order_are_refused(arguments: list[str]) -> None:
    """TensorRT would pass an output where the kernel expects an input."""
    from dataclasses import replace

    from img_deploy.kernels.plugin_ptx import _check_order

    form = replace(plugin_form("ImgConvBlock4"), inputs=("x",))
    _check_order(form, ["x_ptr", "clips", "out_ptr"], 1, 1)
    with pytest.raises(ValueError, match="a plugin passes"):
        _check_order(form, arguments, 1, 1)


@needs_triton
def test_other_inputs_than_the_kernel_takes_are_refused(node_shapes: Callable) -> None:
    """A graph exported by another version would be run with its tensors shifted by one."""
    from img_deploy.kernels.plugin_ptx import PORTABLE, plugin_kernels

    sizes = node_shapes("ImgConvBlock4", **FULL_SIZE)
    with pytest.raises(ValueError, match="got 2 inputs, expected 8"):
        plugin_kernels("ImgConvBlock4", ["fp16", "bool"], sizes, PORTABLE)
    wide = {"gates": (1, 2, 3, 1536), "lengths": (2,), "weight_hh": (1, 2, 768, 256)}
    wide |= {"bias_ih": (1, 2, 768), "bias_hh": (1, 2, 768)}
    with pytest.raises(ValueError, match="no kernel of bigru takes fp16 at these sizes"):
        plugin_kernels("ImgGruRecurrence", ["fp16", "int32", "fp16", "fp16", "fp16"], wide, PORTABLE)


def test_names_are_taken_apart() -> None:
    """A name that lost its number would be run with another number of heads than the network has."""
    assert {plugin_name(node).op for node in NODES} == set(OP_NAMES)
    name = plugin_name("ImgWordsCrossAttention12")
    assert (name.op, name.kind, name.number) == ("attention_block", "ImgWordsCrossAttention", 12)
    with pytest.raises(ValueError, match="lacks the number of heads"):
        plugin_form("ImgSelfAttention")
    with pytest.raises(ValueError, match="no such plugin"):
        plugin_name("GRU")
