"""AOTInductor packages in a bundle: where they lie, and the record of the machine that they were compiled for.

Needs no torch. Packages lie in ``aoti/<device>/<precision>/<graph>.pt2`` beside their record. A package is machine code
and takes any sizes without a check, so the record also holds the range of every axis that it was compiled for.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from img_deploy.errors import BackendError, BundleError
from img_deploy.hardware import hardware
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.bundle import Bundle

FOLDER = "aoti"
RECORD = "packages.json"
SCHEMA = 1
HOW_TO_BUILD = "compile them for this machine with `img-deploy export --targets onnx,aoti`"


@dataclass(frozen=True)
class AotiMachine:
    """What a package depends on."""

    device: str
    """``cpu`` or ``cuda``."""
    system: str
    torch: str
    processor: str
    """Name of the CPU, or name and compute capability of the GPU."""
    features: tuple[str, ...] = ()
    """Instruction sets of the CPU, as the system names them; none for a GPU."""

    def unfit(self, other: "AotiMachine") -> str | None:
        """Why what was compiled on this machine does not run on ``other``; None if it does."""
        for name in ("device", "system", "torch"):
            own, there = getattr(self, name), getattr(other, name)
            if own != there:
                return f"compiled for {name} {own}, this is {there}"
        if self.device == "cpu" and self.features:
            missing = sorted(set(self.features) - set(other.features))
            return f"compiled for a CPU with {', '.join(missing[:5])}, which this one lacks" if missing else None
        if self.processor != other.processor:
            return f"compiled for {self.processor}, this is {other.processor}"
        return None


@dataclass(frozen=True)
class AotiPackages:
    """The packages of one device and precision."""

    machine: AotiMachine
    precision: str
    graphs: Mapping[str, str]
    """Graph -> file, relative to the bundle."""
    ranges: Mapping[str, Mapping[str, tuple[int, int]]]
    """Graph -> axis -> least and greatest size that its package was compiled for."""

    def check(self, graph: str, sizes: Mapping[str, int]) -> None:
        """Raises BackendError unless the package of a graph was compiled for these sizes (axis -> size)."""
        for axis, (least, most) in self.ranges[graph].items():
            if not least <= sizes[axis] <= most:
                raise BackendError(f"{graph}: got {sizes[axis]} {axis}, its package takes {least} to {most}")

    def write(self, folder: Path) -> None:
        """Write the record into a bundle folder."""
        path = folder / FOLDER / self.machine.device / self.precision / RECORD
        content = {"schema": SCHEMA, **asdict(self)}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def place(device: str, precision: str, graph: str) -> str:
    """File of a package, relative to the bundle."""
    return f"{FOLDER}/{device}/{precision}/{graph}.pt2"


def packages_in(bundle: Bundle, device: str) -> AotiPackages | None:
    """The packages of a bundle's precision for a device; None where it has none. Raises BundleError: damaged record."""
    name = f"{FOLDER}/{device}/{bundle.manifest.precision}/{RECORD}"
    if name not in bundle.manifest.files:
        return None
    path = bundle.file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return _packages(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: not a record of packages ({error}); export the bundle again") from None


def _packages(content: dict[str, Any]) -> AotiPackages:
    machine = dict(content.pop("machine"))
    machine["features"] = tuple(machine["features"])
    ranges = {
        graph: {axis: (int(least), int(most)) for axis, (least, most) in axes.items()}
        for graph, axes in content.pop("ranges").items()
    }
    if set(ranges) != set(GRAPH_NAMES) or set(content["graphs"]) != set(GRAPH_NAMES):
        raise ValueError(f"names {', '.join(ranges)}, expected {', '.join(GRAPH_NAMES)}")
    return AotiPackages(AotiMachine(**machine), ranges=ranges, **content)


def this_machine(device: str) -> AotiMachine:
    """The machine at hand. Imports torch only for a GPU."""
    system = f"{platform.system()} {platform.machine()}"
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "none"
    if device == "cpu":
        return AotiMachine(device, system, torch_version, hardware().cpu, _cpu_features())
    import torch

    major, minor = torch.cuda.get_device_capability()
    return AotiMachine(device, system, torch_version, f"{torch.cuda.get_device_name()} (sm_{major}{minor})")


def _cpu_features() -> tuple[str, ...]:
    """All flags of the processor: the compiler may use any of them. None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    flags = (line.partition(":")[2].split() for line in lines if line.split(":")[0].strip() in ("flags", "Features"))
    return tuple(sorted(set(next(flags, []))))
