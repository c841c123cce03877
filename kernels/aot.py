"""Ahead-of-time compilation of the Triton kernels, for GPUs this machine need not have, and what they cost there.

``python -m img_deploy.kernels.aot`` prints registers, spills and shared memory of every kernel on every GPU.

An op's ``kernel.py`` lists what to compile in ``AOT_CASES``. Pointer arguments are assumed aligned to 16 bytes, as
allocations of PyTorch and TensorRT are. Triton is imported inside the functions: the package imports without it.
"""

import argparse
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.dtypes import PRECISIONS
from img_deploy.kernels.tuning import LaunchConfig, config_of

CAPABILITIES = (80, 86, 89, 90, 100, 120)
HEADER = ("op", "variant", "sizes", "dtype", "sm", "warps", "regs", "spill B", "shared", "barriers", "PTX", "scratch")
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""Shared memory one block may have, bytes, by compute capability (CUDA programming guide, technical specifications)."""
WRITTEN_FOR = {86: 80, 89: 80}
"""Compute capability -> the one whose PTX Triton writes for it too, but for the line that names the target."""


@dataclass(frozen=True)
class AotCase:
    """One kernel at one set of sizes. Its launch configuration is looked up in the op's tuning table."""

    op: str
    variant: str
    """Key of ``kernels/<op>/tuning.json``."""
    kernel: Any
    """A ``@triton.jit`` function. Arguments ending in ``_ptr`` are pointers, ``tl.constexpr`` ones constants, all
    others int32."""
    constexprs: Mapping[str, Any]
    """Values of the ``tl.constexpr`` arguments, without the block sizes, which the configuration gives; and None for a
    pointer that this case goes without, which is then no argument of the compiled kernel."""
    pointers: Mapping[str, str] = field(default_factory=dict)
    """Element types of pointers that are not of the storage dtype: ``{"mask_ptr": "i1", "lengths_ptr": "i32"}``."""
    dtypes: tuple[str, ...] = PRECISIONS

    def config(self, dtype: str, capability: int) -> LaunchConfig:
        return config_of(self.op, self.variant, dtype, capability=capability)

    def signature(self, dtype: str) -> dict[str, str]:
        """Argument name -> Triton type, in order."""
        types = {}
        for parameter in self.kernel.params:
            name = parameter.name
            if parameter.is_constexpr or name in self.constexprs:
                types[name] = "constexpr"
            elif name.endswith("_ptr"):
                types[name] = "*" + self.pointers.get(name, dtype)
            else:
                types[name] = "i32"
        return types


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses."""

    op: str
    variant: str
    sizes: str
    dtype: str
    capability: int
    num_warps: int
    registers: int
    """Per thread."""
    spill_bytes: int
    """Stack and local memory per thread: spilled registers and arrays indexed at run time."""
    shared_bytes: int
    """Static and dynamic, per block."""
    barriers: int
    """Places in the code where all threads of a block wait for each other."""
    ptx_isa: str
    scratch_bytes: int
    """Global scratch: has to be 0 where the kernel is a TensorRT plugin."""


def cases(op: str) -> tuple[AotCase, ...]:
    """What op ``op`` wants compiled."""
    return tuple(import_module(f"img_deploy.kernels.{op}.kernel").AOT_CASES)


def compile_case(
    case: AotCase, dtype: str, capability: int, ptx_version: int | None = None, config: LaunchConfig | None = None
) -> Any:
    """Compile for a compute capability. Returns Triton's ``CompiledKernel`` (``.asm["ptx"]``, ``.metadata``).

    Args:
        case, dtype, capability: e.g. a member of ``AOT_CASES``, ``fp16``, 90.
        ptx_version: e.g. 83 for PTX 8.3; by default the newest that the bundled ptxas knows.
        config: by default that of the case.

    Raises:
        ValueError: a constexpr of the kernel has no value, or a value has no constexpr.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    config = config or case.config(dtype, capability)
    constexprs = {**case.constexprs, **config.blocks}
    signature = case.signature(dtype)
    expected = {name for name, kind in signature.items() if kind == "constexpr"}
    if expected != set(constexprs):
        differing = sorted(expected ^ set(constexprs))
        raise ValueError(f"{case.op} {case.variant}: constants {differing} of the kernel and the case differ")
    aligned = [["tt.divisibility", 16]]
    attributes = {(i,): aligned for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = (GluonASTSource if case.kernel.is_gluon() else ASTSource)(case.kernel, signature, constexprs, attributes)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if ptx_version:
        options["ptx_version"] = ptx_version
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(case: AotCase, dtype: str, capability: int) -> Resources:
    """Compile and read what the kernel uses, from its machine code (``cuobjdump --dump-resource-usage``)."""
    written_for = WRITTEN_FOR.get(capability, capability)
    compiled = compile_case(case, dtype, written_for, config=case.config(dtype, capability))
    cubin = compiled.asm["cubin"]
    if written_for != capability:
        cubin = _assemble(compiled.asm["ptx"], capability)
    usage = _resource_usage(cubin, capability)
    version = re.search(r"^\.version\s+(\S+)", compiled.asm["ptx"], re.MULTILINE)
    return Resources(
        op=case.op,
        variant=case.variant,
        sizes=" ".join(f"{name}={value}" for name, value in case.constexprs.items()),
        dtype=dtype,
        capability=capability,
        num_warps=compiled.metadata.num_warps,
        registers=usage["REG"],
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=max(compiled.metadata.shared, usage["SHARED"]),
        barriers=len(re.findall(r"\bbar(?:rier)?\.sync", compiled.asm["ptx"])),
        ptx_isa=version.group(1) if version else "?",
        scratch_bytes=compiled.metadata.global_scratch_size,
    )


def _assemble(ptx: str, capability: int) -> bytes:
    """Machine code from PTX, whatever target the PTX names; kept in Triton's cache."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
    from triton.runtime.cache import get_cache_manager

    ptxas, target = get_ptxas(capability), sm_arch_from_capability(capability)
    text = re.sub(r"(?m)^\.target sm_\w+", f".target {target}", ptx)
    cache = get_cache_manager(hashlib.sha256(f"{ptxas.version}\n{text}".encode()).hexdigest())
    if found := cache.get_file("kernel.cubin"):
        return Path(found).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text)
        command = [ptxas.path, f"--gpu-name={target}", str(source), "-o", str(made)]
        subprocess.run(command, capture_output=True, check=True)
        cache.put(made.read_bytes(), "kernel.cubin")
        return made.read_bytes()


def _resource_usage(cubin: bytes, capability: int) -> dict[str, int]:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b([A-Z]+)(?:\[\d+\])?:(\d+)", text)}
    if not {"REG", "STACK", "LOCAL", "SHARED"} <= set(found):
        raise RuntimeError(f"cuobjdump printed no resource usage for sm_{capability}: {text.strip()!r}")
    return found


def measure(ops: Iterable[str] = (), capabilities: Iterable[int] = CAPABILITIES) -> Iterator[Resources]:
    """Compile every case of the ops (all of them without any) and yield what it uses, one by one."""
    capabilities = tuple(capabilities)
    for op in tuple(ops) or OP_NAMES:
        for case in cases(op):
            for dtype in case.dtypes:
                for capability in capabilities:
                    yield resources(case, dtype, capability)


def row(used: Resources) -> tuple[str, ...]:
    """One line of the table, in the order of ``HEADER``."""
    values = (
        *(used.op, used.variant, used.sizes, used.dtype, used.capability, used.num_warps),
        *(used.registers, used.spill_bytes, used.shared_bytes, used.barriers, used.ptx_isa, used.scratch_bytes),
    )
    return tuple(str(value) for value in values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compile the Triton kernels ahead of time and print what they use.")
    parser.add_argument("ops", nargs="*", help=f"ops to compile (all of them without any): {', '.join(OP_NAMES)}")
    parser.add_argument("--sm", nargs="*", type=int, default=list(CAPABILITIES), help="compute capabilities, e.g. 90")
    options = parser.parse_args(arguments)
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
    for used in measure(options.ops, options.sm):
        print("| " + " | ".join(row(used)) + " |", flush=True)


if __name__ == "__main__":
    main()
