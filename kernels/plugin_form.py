"""What a TensorRT plugin is made of, as each ``kernels/<op>/export.py`` declares it; needs no TensorRT.

Sizes come in two forms. ``Dims`` are what TensorRT computes with: plain numbers where a size is known, expressions
where it is free. Both take ``+``, ``*`` and ``//`` with a number on the right, so one declaration serves both.
``Sizes`` are numbers only, the largest that the engine takes: what a kernel is compiled for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from img_deploy.kernels.dtypes import PRECISIONS
from img_deploy.kernels.plugin_names import PluginName, plugin_name
from img_deploy.kernels.tuning import BATCH_REGIMES

if TYPE_CHECKING:
    from torch import Tensor

Dims = Mapping[str, Sequence[Any]]
Sizes = Mapping[str, Sequence[int]]
Blocks = Mapping[str, int]


@dataclass(frozen=True)
class Output:
    """One output: its shape, and its type: a name of ``ELEMENT_TYPES``, or that of the input that has this type."""

    shape: tuple[Any, ...]
    dtype: str


@dataclass(frozen=True)
class Variant:
    """One kernel that a plugin can run. TensorRT times them all for each profile and keeps the fastest."""

    kernel: Any
    tuning: str
    """Key of the op's ``tuning.json``."""
    constexprs: Mapping[str, Any]
    """As in :class:`~img_deploy.kernels.aot.AotCase`."""
    least: Mapping[str, int] = field(default_factory=dict)
    """Block sizes below which the kernel cannot go; they replace smaller ones of the tuning table."""
    dtypes: tuple[str, ...] = PRECISIONS
    """Storage types that it takes."""


@dataclass(frozen=True)
class PluginForm:
    """A plugin. The kernel's arguments are the inputs, then ``extras``, then the outputs, then its constants."""

    op: str
    inputs: tuple[str, ...]
    """The kernel's input pointers without ``_ptr``, which are the node's inputs. The first has the storage type."""
    outputs: Callable[[Dims], tuple[Output, ...]]
    extras: Callable[[Dims], tuple[Any, ...]]
    """int32 arguments."""
    grid: Callable[[Dims, Blocks], tuple[Any, ...]]
    """Blocks to launch, up to three numbers."""
    variants: Callable[[Sizes], tuple[Variant, ...]]
    """Imports the kernel, and so Triton."""
    reference: "Callable[[list[Tensor]], tuple[Tensor, ...]]"
    """The same in plain PyTorch, for debugging an engine."""


def ceil_div(size: Any, block: int) -> Any:
    """Blocks that cover ``size``, a number or an expression."""
    return (size + (block - 1)) // block


def plugin_form(node: str) -> PluginForm:
    """The plugin of a node name such as ``ImgConvBlock4``. Raises ValueError: there is none."""
    name = plugin_name(node)
    make: Callable[[PluginName], PluginForm] = import_module(f"img_deploy.kernels.{name.op}.export").plugin_form
    return make(name)


def over_rows(
    op: str,
    inputs: tuple[str, ...],
    variants: Callable[[Sizes], tuple[Variant, ...]],
    reference: "Callable[[list[Tensor]], tuple[Tensor, ...]] | None" = None,
    extras: Callable[[Dims], tuple[Any, ...]] | None = None,
) -> PluginForm:
    """A plugin whose blocks each take ``ROWS`` clips of its first input [B, L, D] and write as many of its output."""
    first = inputs[0]
    return PluginForm(
        op=op,
        inputs=inputs,
        outputs=lambda dims: (Output(tuple(dims[first]), first),),
        extras=extras or (lambda dims: (dims[first][1],)),
        grid=lambda dims, blocks: (dims[first][0], ceil_div(dims[first][1], blocks["ROWS"])),
        variants=variants,
        reference=reference or reference_of(op),
    )


def reference_of(op: str, *numbers: int) -> "Callable[[list[Tensor]], tuple[Tensor, ...]]":
    """An op's reference as a function of a plugin's inputs, which are those of the op; ``numbers`` come last."""

    def run(tensors: "list[Tensor]") -> "tuple[Tensor, ...]":
        result = getattr(import_module(f"img_deploy.kernels.{op}.reference"), op)(*tensors, *numbers)
        return result if isinstance(result, tuple) else (result,)

    return run


def over_padded_rows(op: str, dim_of: Callable[[Sizes], int]) -> Callable[[Sizes], tuple[Variant, ...]]:
    """Variants of a kernel over rows whose only constants are the channels, plain and padded."""

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.launch import padded

        kernel = getattr(import_module(f"img_deploy.kernels.{op}.kernel"), f"{op}_kernel")
        dim = dim_of(sizes)
        return by_batch(kernel, {"DIM": dim, "WIDTH": padded(dim)})

    return variants


def number_of(name: PluginName, what: str) -> int:
    """The number that a node's name ends in. Raises ValueError where it has none."""
    if name.number is None:
        raise ValueError(f"node {name.kind}: its name lacks the number of {what} (such as {name.kind}4); export again")
    return name.number


def by_batch(kernel: Any, constexprs: Mapping[str, Any], **least: int) -> tuple[Variant, ...]:
    """Both variants of a kernel over rows."""
    return tuple(Variant(kernel, regime, constexprs, least) for regime in BATCH_REGIMES)
