"""The Triton kernel of a plugin as PTX that TensorRT can launch: its arguments, and nothing else.

TensorRT passes a kernel the node's inputs, int32 numbers and the node's outputs. What this module makes sure of:

- the kernel declares its arguments in that order;
- it needs no scratch memory, and the two scratch pointers that Triton appends to every kernel, which TensorRT would
  not pass, are taken off its parameters;
- its PTX is no newer than what drivers of the supported TensorRT versions read;
- its shared memory stays within what a launch may ask for without opting in, where a configuration allows that.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

from img_deploy.kernels.aot import SHARED_LIMIT, AotCase, compile_case
from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.kernels.plugin_form import PluginForm, Sizes, Variant, plugin_form
from img_deploy.kernels.tuning import LaunchConfig, config_of

PORTABLE_CAPABILITY = 80
"""PTX of this compute capability runs on it and on every newer GPU; Triton's PTX of 9.0 and newer does not."""
PLAIN_SHARED_BYTES = 48 << 10
"""Dynamic shared memory of a block that needs no opt-in by whoever launches it (CUDA programming guide)."""
_SMALLEST_CHUNK = 16


@dataclass(frozen=True)
class Target:
    """The GPU that kernels are compiled for."""

    capability: int
    """E.g. 90."""
    gpu: str = ""
    """Name as CUDA gives it, for measured launch configurations; "" takes those of the capability."""

    @property
    def ptx_version(self) -> int:
        """PTX ISA version, e.g. 83 for 8.3: the oldest that knows the GPU and every instruction Triton uses."""
        if self.capability >= 120:
            return 87
        return 86 if self.capability >= 100 else 83


PORTABLE = Target(PORTABLE_CAPABILITY)


@dataclass(frozen=True)
class PluginKernel:
    """One compiled kernel, ready for TensorRT."""

    name: str
    ptx: str
    threads: int
    """Per block."""
    shared_bytes: int
    """Dynamic, per block."""
    blocks: dict[str, int]
    """Block sizes that the grid depends on."""
    tuning: str
    """Which variant of the op it is."""

    @property
    def digest(self) -> str:
        """sha256 of the PTX."""
        return sha256(self.ptx.encode()).hexdigest()


def plugin_kernels(node: str, types: Sequence[str], sizes: Sizes, target: Target) -> tuple[PluginKernel, ...]:
    """The kernels that a plugin node may run, each tried and timed by TensorRT.

    Args:
        node: the node's name, e.g. ``ImgConvBlock4``.
        types: element types of its inputs in order: ``fp32``, ``fp16``, ``bf16``, ``bool``, ``int32``, ``int64``.
        sizes: input name -> sizes, the largest where one is free.
        target: what to compile for.

    Raises:
        ValueError: no such plugin, other inputs than its kernel takes, or a kernel that TensorRT could not launch.
    """
    form = plugin_form(node)
    if len(types) != len(form.inputs):
        raise ValueError(f"node {node}: got {len(types)} inputs, expected {len(form.inputs)}: {', '.join(form.inputs)}")
    frozen = tuple((name, tuple(sizes[name])) for name in form.inputs)
    return _kernels(node, tuple(types), frozen, target)


@lru_cache(maxsize=256)
def _kernels(
    node: str, types: tuple[str, ...], sizes: tuple[tuple[str, tuple[int, ...]], ...], target: Target
) -> tuple[PluginKernel, ...]:
    form, known = plugin_form(node), dict(sizes)
    outputs = [output.dtype for output in form.outputs(known)]
    named = dict(zip(form.inputs, types, strict=True))
    kinds = [*types, *(named.get(kind, kind) for kind in outputs)]
    pointers = [ELEMENT_TYPES[kind].triton for kind in kinds]
    variants = [variant for variant in form.variants(known) if types[0] in variant.dtypes]
    compiled = [_first_that_fits(form, variant, pointers, known, types[0], target) for variant in variants]
    if not compiled:
        raise ValueError(f"node {node}: no kernel of {form.op} takes {types[0]} at these sizes")
    plain = [kernel for kernel in compiled if kernel.shared_bytes <= PLAIN_SHARED_BYTES]
    kept = plain or [kernel for kernel in compiled if kernel.shared_bytes <= SHARED_LIMIT[target.capability]]
    if not kept:
        least = min(kernel.shared_bytes for kernel in compiled)
        most = SHARED_LIMIT[target.capability]
        raise ValueError(f"node {node}: its kernel wants {least} bytes of shared memory, a block here has {most}")
    return tuple({kernel.digest: kernel for kernel in kept}.values())


def _first_that_fits(
    form: PluginForm, variant: Variant, pointers: Sequence[str], sizes: Sizes, dtype: str, target: Target
) -> PluginKernel:
    """The kernel under the first configuration that needs no opt-in for shared memory, or else the leanest."""
    made = []
    for config in _configurations(form, variant, dtype, target):
        kernel = _compile(form, variant, pointers, sizes, dtype, target, config)
        if kernel.shared_bytes <= PLAIN_SHARED_BYTES:
            return kernel
        made.append(kernel)
    return min(made, key=lambda kernel: kernel.shared_bytes)


def _configurations(form: PluginForm, variant: Variant, dtype: str, target: Target) -> Iterator[LaunchConfig]:
    """The tuned configuration, then the same with ever smaller pieces of the weights in shared memory."""
    config = config_of(form.op, variant.tuning, dtype, target.gpu, target.capability)
    blocks = {name: max(size, variant.least.get(name, 0)) for name, size in config.blocks.items()}
    yield replace(config, blocks=blocks)
    chunk = blocks.get("CHUNK", 0) // 2
    while chunk >= _SMALLEST_CHUNK:
        yield replace(config, blocks={**blocks, "CHUNK": chunk})
        chunk //= 2


def _compile(
    form: PluginForm,
    variant: Variant,
    pointers: Sequence[str],
    sizes: Sizes,
    dtype: str,
    target: Target,
    config: LaunchConfig,
) -> PluginKernel:
    arguments = [
        each.name for each in variant.kernel.params if not each.is_constexpr and each.name not in variant.constexprs
    ]
    named = [name for name in arguments if name.endswith("_ptr")]
    _check_order(form, arguments, len(form.extras(sizes)), len(pointers) - len(form.inputs))
    case = AotCase(
        op=form.op,
        variant=variant.tuning,
        kernel=variant.kernel,
        constexprs=variant.constexprs,
        pointers=dict(zip(named, pointers, strict=True)),
    )
    compiled = compile_case(case, dtype, target.capability, target.ptx_version, config)
    metadata = compiled.metadata
    scratch = metadata.global_scratch_size + metadata.profile_scratch_size
    if scratch:
        raise ValueError(f"{form.op} {variant.tuning}: needs {scratch} bytes of scratch, which a plugin cannot have")
    if metadata.num_ctas != 1:
        raise ValueError(f"{form.op} {variant.tuning}: wants clusters of {metadata.num_ctas} blocks, a plugin has none")
    ptx = without_scratch(compiled.asm["ptx"], metadata.name, len(arguments))
    threads = 32 * metadata.num_warps
    return PluginKernel(metadata.name, ptx, threads, metadata.shared, dict(config.blocks), variant.tuning)


def _check_order(form: PluginForm, arguments: Sequence[str], extras: int, outputs: int) -> None:
    """Raise ValueError unless the arguments are the inputs, then numbers, then outputs."""
    expected = [f"{name}_ptr" for name in form.inputs]
    middle = list(arguments[len(expected) : len(expected) + extras])
    last = list(arguments[len(expected) + extras :])
    in_order = (
        list(arguments[: len(expected)]) == expected
        and len(middle) == extras
        and not any(name.endswith("_ptr") for name in middle)
        and len(last) == outputs
        and all(name.endswith("_ptr") for name in last)
    )
    if not in_order:
        wanted = f"{', '.join(expected)}, {extras} numbers, {outputs} output pointers"
        raise ValueError(f"{form.op}: the kernel takes ({', '.join(arguments)}), a plugin passes ({wanted})")


def without_scratch(ptx: str, name: str, arguments: int) -> str:
    """PTX whose entry takes ``arguments`` parameters: those that Triton appends are dropped, being unused.

    Raises:
        ValueError: the entry is not found, has fewer parameters, or its body reads one that would be dropped.
    """
    entry = re.search(rf"(\.entry\s+{re.escape(name)}\s*\()([^)]*)(\))", ptx)
    if entry is None:
        raise ValueError(f"{name}: no entry of this name in its PTX")
    parameters = [line.strip() for line in entry[2].split(",")]
    if len(parameters) < arguments:
        raise ValueError(f"{name}: its PTX has {len(parameters)} parameters, expected {arguments} or more")
    for parameter in parameters[arguments:]:
        symbol = parameter.split()[-1]
        if re.search(rf"\b{re.escape(symbol)}\b", ptx[entry.end() :]):
            raise ValueError(f"{name}: reads {symbol}, a scratch pointer that TensorRT does not pass")
    kept = ",\n\t".join(parameters[:arguments])
    return f"{ptx[: entry.end(1)]}\n\t{kept}\n{ptx[entry.start(3) :]}"


def kernels_digest(kernels: Sequence[Any]) -> str:
    """One sha256 over the PTX of all kernels, whatever their order."""
    return sha256("".join(sorted(kernel.digest for kernel in kernels)).encode()).hexdigest()
