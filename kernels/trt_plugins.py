"""TensorRT plugins out of our Triton kernels: registered by name, compiled ahead of time, no Python at run time.

The declarations are in ``kernels/<op>/export.py``; here they become ``tensorrt.plugin`` registrations. TensorRT is
imported inside the functions. Compiled kernels live in the engine, so only building needs this module.
Checked against the Python code of TensorRT 10.15, 10.16 and 11.4; not yet run inside TensorRT.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from types import GenericAlias
from typing import Any

from img_deploy.kernels.dtypes import ELEMENT_TYPES, named
from img_deploy.kernels.plugin_form import Dims, PluginForm, Sizes, plugin_form
from img_deploy.kernels.plugin_names import PLUGIN_NAMESPACE
from img_deploy.kernels.plugin_ptx import PluginKernel, Target, plugin_kernels

_TUNABLE = {"FLOAT": "FP32", "HALF": "FP16"}
"""``AutoTuneCombination`` writes these two otherwise than ``tensorrt.DataType`` names them."""
_NUMBER = inspect.Parameter.POSITIONAL_OR_KEYWORD

_targets: dict[str, Target] = {}
"""What each registered plugin is compiled for; TensorRT's registry lives as long as the process, a target does not."""


def register_plugins(nodes: Iterable[str], target: Target) -> None:
    """Register the plugins of these nodes, or only set their target where they are registered already.

    Args:
        nodes: node names, e.g. ``ImgConvBlock4``.
        target: the GPU that kernels are compiled for from now on.

    Raises:
        ImportError: TensorRT, or its ``plugin`` module, is not installed.
        ValueError: no plugin has such a name.
    """
    for node in nodes:
        form = plugin_form(node)
        if node not in _targets:
            _register(node, form)
        _targets[node] = target


def _register(node: str, form: PluginForm) -> None:
    trtp = import_module("tensorrt.plugin")
    identifier = f"{PLUGIN_NAMESPACE}::{node}"
    trtp.register(identifier)(_describe(node, form, trtp))
    trtp.autotune(identifier)(_offer(node, form, trtp))
    trtp.aot_impl(identifier)(_launch(node, form, trtp))
    trtp.impl(identifier)(_debug(form, trtp))


def _describe(node: str, form: PluginForm, trtp: Any) -> Callable[..., Any]:
    """Shapes and types of the outputs."""
    trt = import_module("tensorrt")

    def describe(*inputs: Any) -> Any:
        dims: Dims = {name: desc.shape_expr for name, desc in zip(form.inputs, inputs, strict=True)}
        types = {name: desc.dtype for name, desc in zip(form.inputs, inputs, strict=True)}
        outputs = []
        for output in form.outputs(dims):
            dtype = types.get(output.dtype)
            if dtype is None:
                dtype = getattr(trt.DataType, ELEMENT_TYPES[output.dtype].tensorrt)
            outputs.append(trtp.from_shape_expr(tuple(output.shape), dtype))
        return tuple(outputs)

    arguments = [(name, trtp.TensorDesc) for name in form.inputs]
    return _signed(describe, f"{node}_describe", arguments, _tuple_of(trtp.TensorDesc, form))


def _offer(node: str, form: PluginForm, trtp: Any) -> Callable[..., Any]:
    """The types of this very network, all linear, and a tactic for each kernel; TensorRT times them."""

    def offer(*given: Any) -> Any:
        inputs, outputs = given[:-1], given[-1]
        kernels = _kernels(node, form, inputs)
        names = [desc.dtype.name for desc in (*inputs, *outputs)]
        types = ", ".join(_TUNABLE.get(name, name) for name in names)
        return [trtp.AutoTuneCombination(types, "LINEAR", range(1, len(kernels) + 1))]

    arguments = [*((name, trtp.TensorDesc) for name in form.inputs), ("outputs", _tuple_of(trtp.TensorDesc, form))]
    return _signed(offer, f"{node}_offer", arguments, list[trtp.AutoTuneCombination])


def _launch(node: str, form: PluginForm, trtp: Any) -> Callable[..., Any]:
    """The kernel of a tactic, its launch and its numbers."""

    def launch(*given: Any) -> Any:
        *inputs, _outputs, tactic = given
        kernels = _kernels(node, form, inputs)
        # Tactics count from 1; 0 is the one TensorRT names where it did not choose.
        kernel = kernels[max(tactic, 1) - 1]
        dims: Dims = {name: desc.shape_expr for name, desc in zip(form.inputs, inputs, strict=True)}
        params = trtp.KernelLaunchParams()
        for axis, size in zip("xyz", form.grid(dims, kernel.blocks), strict=False):
            setattr(params, f"grid_{axis}", size)
        params.block_x = kernel.threads
        params.shared_mem = kernel.shared_bytes
        numbers = form.extras(dims)
        extras = trtp.SymIntExprs(len(numbers))
        for index, number in enumerate(numbers):
            extras[index] = trtp.SymInt32(number)
        return kernel.name, kernel.ptx, params, extras

    arguments = [
        *((name, trtp.TensorDesc) for name in form.inputs),
        ("outputs", _tuple_of(trtp.TensorDesc, form)),
        ("tactic", int),
    ]
    returned = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
    return _signed(launch, f"{node}_launch", arguments, returned)


def _debug(form: PluginForm, trtp: Any) -> Callable[..., Any]:
    """The op's PyTorch reference in the plugin's place, on TensorRT's stream: tells kernels and graph apart."""

    def debug(*given: Any) -> None:
        import torch

        *inputs, outputs, stream = given
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            results = form.reference([_as_torch(tensor) for tensor in inputs])
            for output, result in zip(outputs, results, strict=True):
                _as_torch(output).copy_(result)

    arguments = [
        *((name, trtp.Tensor) for name in form.inputs),
        ("outputs", _tuple_of(trtp.Tensor, form)),
        ("stream", int),
    ]
    return _signed(debug, f"{form.op}_debug", arguments, None)


def _kernels(node: str, form: PluginForm, inputs: Sequence[Any]) -> tuple[PluginKernel, ...]:
    types = [named("tensorrt", desc.dtype.name).name for desc in inputs]
    sizes: Sizes = {name: _largest(desc.shape) for name, desc in zip(form.inputs, inputs, strict=True)}
    return plugin_kernels(node, types, sizes, _targets[node])


def _largest(shape: Any) -> tuple[int, ...]:
    return tuple(shape.max) if shape.is_dynamic else tuple(shape)


def _tuple_of(kind: Any, form: PluginForm) -> Any:
    """``tuple[kind, ...]`` with one ``kind`` for each output."""
    return GenericAlias(tuple, (kind,) * len(form.outputs(_Unknown())))


def _signed(
    function: Callable[..., Any], name: str, arguments: Sequence[tuple[str, Any]], returned: Any
) -> Callable[..., Any]:
    """Give a function the name, arguments and annotations that TensorRT reads off it."""
    function.__name__ = function.__qualname__ = name
    parameters = [inspect.Parameter(each, _NUMBER, annotation=kind) for each, kind in arguments]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return function


def _as_torch(tensor: Any) -> Any:
    """The memory of a ``tensorrt.plugin.Tensor`` as a torch tensor on the GPU."""
    import torch

    if tensor.dtype.name != "BF16":
        return torch.as_tensor(tensor, device="cuda")
    # numpy, whose names the array interface uses, has no bfloat16.
    return torch.as_tensor(_Bits(tensor), device="cuda").view(torch.bfloat16)


class _Bits:
    """A bfloat16 tensor as int16."""

    def __init__(self, tensor: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(tensor.shape),
            "typestr": "<i2",
            "strides": tuple(2 * stride for stride in tensor.strides),
            "data": (tensor.data_ptr, False),
            "stream": None,
            "version": 3,
        }


class _Unknown(dict[str, Any]):
    """Sizes nobody knows yet: enough to count a plugin's outputs."""

    def __missing__(self, _name: str) -> Any:
        return (0,) * 8
