"""TensorRT engines in a bundle: the record beside each plan, its cache key, and whether a machine can run it.

Needs neither TensorRT nor torch. Plans lie in ``engines/<precision>/<graph>.<key>.plan``, each with a record of the
same name ending in ``.json`` and the log of its build in ``.log``; the manifest lists the records by precision and
graph. A plan is opaque and trusted by TensorRT as code: nothing of it is read before the record fits.
"""

import hashlib
import json
import platform
import sys
from dataclasses import asdict, field
from dataclasses import dataclass as plain_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from img_deploy.errors import BundleError, validation_problems
from img_deploy.runtime.backends.buckets import Range
from img_deploy.runtime.backends.tensorrt.edition import EDITIONS, FULL, Edition, version_numbers
from img_deploy.runtime.bundle import Bundle

ENGINES = "engines"
RECORD_SCHEMA = 1
Where = Literal["same_gpu", "same_capability", "ampere_plus"]
"""Where an engine may run: the model of GPU it was built on, any of its compute capability, any from Ampere on."""


def _ascending(sizes: Range) -> Range:
    if not 0 < sizes[0] <= sizes[1] <= sizes[2]:
        raise ValueError(f"sizes {list(sizes)} do not ascend")
    return sizes


Sizes = Annotated[Range, AfterValidator(_ascending)]


@plain_dataclass(frozen=True)
class TrtMachine:
    """What an engine has to fit."""

    tensorrt: str
    """Version, e.g. ``11.4.0.106``."""
    gpu: str
    """Name as CUDA gives it; empty for any of its compute capability."""
    capability: str
    """Compute capability, e.g. ``9.0``."""
    platform: str = field(default_factory=lambda: this_platform())


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class EngineRecord:
    """What is known of one plan."""

    graph: str
    precision: str
    tensorrt: str
    gpu: str
    capability: str
    platform: str
    hardware: Where
    version_compatible: bool
    profiles: Annotated[tuple[dict[str, Sizes], ...], Field(min_length=1)]
    """Per profile, axis -> its sizes."""
    onnx_sha256: str
    """Of the bundle's ONNX file it was built from."""
    ptx_sha256: str
    """Over the PTX of all its plugins; empty without plugins."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else the build was told: optimisation level, workspace."""
    plugins: dict[str, str] = field(default_factory=dict)
    """Layer -> plugin."""
    layers: tuple[str, ...] = ()
    """Names, where the engine could be opened after its build."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Input -> element type."""
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """That the build took."""
    edition: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt"
    verified: bool = True
    """Whether it was run and compared with the eager network, which takes a GPU that it fits."""
    schema: int = RECORD_SCHEMA

    @property
    def key(self) -> str:
        """Differs for engines that cannot stand in for each other."""
        parts = [self.tensorrt, self.gpu, self.capability, self.platform, self.hardware, self.version_compatible]
        parts += [[dict(profile) for profile in self.profiles], self.onnx_sha256, self.ptx_sha256, dict(self.settings)]
        parts += [] if self.edition == FULL.name else [self.edition]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def where(self) -> str:
        """The GPU it is for, in words: ``NVIDIA H200`` or ``sm89``."""
        return self.gpu or sm_name(self.capability)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> "EngineRecord":
        """Raises BundleError: no record, damaged, or newer than this program."""
        try:
            text = path.read_bytes()
            schema = json.loads(text)["schema"]
            if type(schema) is int and schema > RECORD_SCHEMA:
                raise BundleError(f"{path}: got schema {schema}, this program reads up to {RECORD_SCHEMA}; update it")
            return _adapter().validate_json(text)
        except (OSError, ValueError, TypeError, KeyError) as error:
            why = validation_problems(error) if isinstance(error, ValidationError) else error
            raise BundleError(f"{path}: not a record of an engine ({why}); build the engine again") from None


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[EngineRecord]:
    return TypeAdapter(EngineRecord)


def sm_name(capability: str) -> str:
    """``8.9`` -> ``sm89``."""
    return f"sm{capability.replace('.', '')}"


def this_platform() -> str:
    """Operating system and processor family: a plan runs on no other."""
    return f"{sys.platform}-{platform.machine().lower()}"


def misfits(record: EngineRecord, machine: TrtMachine, onnx_sha256: str) -> list[str]:
    """Why an engine must not be loaded on a machine; empty where it may.

    Args:
        record: of the engine.
        machine: where it would run.
        onnx_sha256: of the ONNX graph that the bundle holds now.
    """
    found = []
    title = EDITIONS[record.edition].title
    if record.platform != machine.platform:
        found.append(f"built on {record.platform}, this is {machine.platform}")
    built, here = version_numbers(record.tensorrt), version_numbers(machine.tensorrt)
    if record.version_compatible:
        if built[0] != here[0] or built > here:
            found.append(
                f"built with {title} {record.tensorrt} for that and later {built[0]}.x, here is {machine.tensorrt}"
            )
    elif built != here:
        found.append(f"built with {title} {record.tensorrt}, here is {machine.tensorrt}")
    found += _gpu_misfits(record, machine)
    if record.onnx_sha256 != onnx_sha256:
        found.append("built from another ONNX graph than the bundle holds")
    return found


def _gpu_misfits(record: EngineRecord, machine: TrtMachine) -> list[str]:
    if record.hardware == "ampere_plus":
        if version_numbers(machine.capability) < (8, 0):
            return [f"built for compute capability 8.0 and newer, {machine.gpu} has {machine.capability}"]
        return []
    if record.capability != machine.capability:
        return [f"built for compute capability {record.capability}, {machine.gpu} has {machine.capability}"]
    if record.hardware == "same_gpu" and record.gpu != machine.gpu:
        return [f"built on {record.gpu}, this is {machine.gpu}"]
    return []


@plain_dataclass(frozen=True)
class EngineFile:
    """An engine of a bundle: its record and, relative to the bundle, its plan."""

    record: EngineRecord
    plan: str


def engine_files(
    bundle: Bundle, graph: str, precision: str | None = None, edition: Edition | None = None
) -> list[EngineFile]:
    """The engines that a bundle lists for a graph, of one edition or of both.

    Raises BundleError: a record is missing or damaged.
    """
    listed = bundle.manifest.engines.get(precision or bundle.manifest.precision, {})
    names = listed.get(graph, []) if isinstance(listed, dict) else []
    found = []
    for name in names:
        record = EngineRecord.read(bundle.file(name))
        if record.graph != graph:
            raise BundleError(f"{bundle.folder / name}: is of {record.graph}, listed for {graph}; build it again")
        if edition is None or record.edition == edition.name:
            found.append(EngineFile(record, f"{name.removesuffix('.json')}.plan"))
    return found


def fitting_engine(
    bundle: Bundle, graph: str, machine: TrtMachine, edition: Edition
) -> tuple[EngineFile | None, list[str]]:
    """The first engine of a graph that a machine can run, and why the others do not fit.

    Raises:
        BundleError: a record or the manifest is damaged.
    """
    manifest = bundle.manifest
    onnx_sha256 = manifest.files[manifest.graphs[manifest.precision][graph]]
    reasons: list[str] = []
    for engine in engine_files(bundle, graph, edition=edition):
        wrong = misfits(engine.record, machine, onnx_sha256)
        if not wrong:
            return engine, reasons
        reasons.append("; ".join(wrong))
    return None, reasons or ["none was built"]
