"""AOTInductor packages: the deployed modules compiled for the machine at hand.

On a GPU the fused ops stay single nodes, which call the kernels. On a CPU they are compiled from their references, but
for the recurrence: a loop over a number of steps that is not known when it is traced stays one node.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img_deploy.errors import BackendError
from img_deploy.export.programs import program_from_graph
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.model.graphs import GraphSpec, graph_specs
from img_deploy.runtime.aoti_files import AotiPackages, place, this_machine

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from img_deploy.model.network import IMGNetwork

SINGLE_NODES = {"cpu": ("bigru",), "cuda": OP_NAMES}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def aoti_device() -> str:
    """The device that packages are compiled for on this machine: ``cuda`` where PyTorch can use a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def compiled_precisions(precisions: Sequence[str], device: str) -> tuple[str, ...]:
    """Those of ``precisions`` that packages are compiled in: on a CPU, which has no fp16 arithmetic, fp32 alone."""
    return tuple(precision for precision in precisions if device == "cuda" or precision == "fp32")


def add_aoti(
    network: "IMGNetwork",
    folder: Path,
    precision: str = "fp32",
    device: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
    settings: Mapping[str, Any] | None = None,
) -> AotiPackages:
    """Compile the four graphs of a network into a bundle folder, with the record that the runtime reads.

    Args:
        network: owner of the weights, in evaluation mode; not changed.
        folder: of the bundle; its manifest has to be written afterwards.
        precision: ``fp32``, or on a GPU also ``fp16`` and ``bf16``.
        device: ``cpu`` or ``cuda``; by default :func:`aoti_device`.
        tell: is told each step.
        settings: of Inductor, over its own.

    Raises:
        BackendError: there is no C++ compiler, or the graph does not compile with it.
    """
    import torch

    device = device or aoti_device()
    twin = deepcopy(network).eval().to(device, getattr(torch, DTYPES[precision]))
    files, ranges = {}, {}
    for name, spec in graph_specs(network.config).items():
        tell(f"compiling {name} for {device} ({precision})")
        program = program_from_graph(twin, spec, SINGLE_NODES[device])
        files[name], ranges[name] = place(device, precision, name), ranges_of(program, spec)
        path = folder / files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        package(program, path, settings or {})
    packages = AotiPackages(this_machine(device), precision, files, ranges)
    packages.write(folder)
    return packages


def package(program: "ExportedProgram", path: Path, settings: Mapping[str, Any]) -> None:
    """Compile one program. Raises BackendError."""
    from torch._inductor import aoti_compile_and_package

    try:
        with _quiet():
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(settings))
    except Exception as error:  # the compilers' errors have no common class
        lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        raise BackendError(
            f"{path.name}: does not compile ({' '.join(lines[0].split())[:200] or type(error).__name__}); "
            "AOTInductor needs a C++ compiler (g++); leave aoti out of --targets to do without"
        ) from None


def ranges_of(program: "ExportedProgram", spec: GraphSpec) -> dict[str, tuple[int, int]]:
    """Axis -> least and greatest size that a program takes. A size that the trace fixed is both."""
    import torch

    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    found: dict[str, tuple[int, int]] = {}
    for tensor, name in zip(spec.inputs, program.graph_signature.user_inputs, strict=True):
        for index, axis in tensor.dynamic_axes.items():
            size = values[name].shape[index]
            least = most = size
            if isinstance(size, torch.SymInt):
                limits = program.range_constraints[size.node.expr]
                least, most = int(limits.lower), int(limits.upper)
            low, high = found.get(axis, (least, most))
            found[axis] = (max(low, least), min(high, most))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Remarks on the compiler's own parts help nobody who exports a network."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
