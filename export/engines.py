"""TensorRT engines for a bundle: built, compared with the eager network where such a GPU is, listed in the manifest.

All of it happens in a copy that takes the bundle's place in one step: a build that fails, is stopped or is killed
leaves the bundle as it was.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from img_deploy.errors import BackendError, InputError
from img_deploy.export.engine_from_onnx import BuiltEngine, Target, engine_from_onnx
from img_deploy.export.engine_log import BuildLog
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.engine_verification import KEPT, verified
from img_deploy.export.report import REPORT, markdown
from img_deploy.export.tensorrt_graph import TensorRTGraph, has_plugin_nodes, tensorrt_graph
from img_deploy.export.verify import Verification
from img_deploy.files import cache_folder, sha256
from img_deploy.hardware import why_no_gpu
from img_deploy.model.graphs import GRAPH_NAMES, GraphSpec, graph_specs
from img_deploy.runtime.backends.tensorrt.edition import FULL, Edition, version_numbers
from img_deploy.runtime.backends.tensorrt.engine import this_machine
from img_deploy.runtime.backends.tensorrt.profiles import profiles
from img_deploy.runtime.backends.tensorrt.records import ENGINES, EngineRecord, TrtMachine, engine_files, sm_name
from img_deploy.runtime.bundle import Bundle, replacing, write_manifest

Tell = Callable[[str], None]


@dataclass(frozen=True)
class EngineReport:
    """What became of one graph for one GPU."""

    record: EngineRecord
    path: Path
    built: bool
    """False where the bundle already had this very engine."""
    bytes: int
    scratch_bytes: int = 0
    """GPU memory that it works in, where the builder says so."""
    warnings: tuple[str, ...] = ()
    """Of the parser and the builder."""


class _NotKept(Exception):
    """The copy with the engines is not to take the bundle's place."""


def _silent(_: object) -> None:
    pass


def add_engines(
    folder: Path,
    precision: str | None = None,
    options: EngineOptions | None = None,
    tell: Tell = _silent,
    rebuild: bool = False,
    edition: Edition = FULL,
    gpus: Sequence[str] = (),
) -> list[EngineReport]:
    """Build the engines of a bundle and add them to it.

    Args:
        folder: the bundle.
        precision: of the ONNX graphs to build from; None takes the bundle's default.
        options: see :class:`EngineOptions`.
        tell: is told each step, in a few words.
        rebuild: build also what the bundle already has, built the same way for the same machine.
        edition: of TensorRT.
        gpus: what to build for, as ``sm89``; none is the GPU of this machine. For TensorRT for RTX alone.

    Returns:
        One report per GPU and graph.

    Raises:
        BackendError: TensorRT is missing or too old, finds no GPU, or cannot build a graph. The bundle is as before;
            the log of the failed build lies beside it.
        InputError: a GPU that the library does not build for.
        VerificationError: an engine is farther from the eager fp32 network than its precision may be.
        BundleError: no bundle, damaged, or without graphs of this precision.
    """
    options = options or EngineOptions()
    bundle = Bundle.open(folder)
    bundle.check_all()  # the manifest is written anew below: nothing that was tampered with may be hashed again
    precision = precision or bundle.manifest.precision
    try:
        targets = targets_for(edition, gpus)
        with replacing(folder) as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True, copy_function=_linked)
            job = _Job(Bundle.open(copy), folder, precision, options, tell)
            job.check_plugins(edition)
            reports = [
                job.engine(graph, spec, target, rebuild)
                for target in targets
                for graph, spec in graph_specs(bundle.manifest.model).items()
            ]
            reports = job.publish(reports, targets[0])
            if options.references:
                tell("the engines agree with PyTorch's references in the place of our kernels; not kept")
                raise _NotKept
    except BackendError as error:
        raise BackendError(f"{folder}: no engines added: {error}; {KEPT}") from None
    except _NotKept:
        pass
    return [replace(report, path=folder / report.path.relative_to(copy)) for report in reports]


def _linked(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)  # files of a bundle are replaced, never changed
    except OSError:
        shutil.copy2(source, target)


def targets_for(edition: Edition, gpus: Sequence[str] = ()) -> list[Target]:
    """What builds, for each GPU asked for (``sm89``), or for this machine's own.

    Raises:
        BackendError: TensorRT is missing or too old, or finds no GPU where none is asked for.
        InputError: a GPU that it does not build for, or none asked for and none here.
    """
    trt = edition.load()
    if not edition.builds_anywhere:
        if gpus:
            raise InputError(f"gpu: got {', '.join(gpus)}, but {edition.title} builds for the GPU that is here")
        return [Target(edition, trt, this_machine(trt))]
    known = {sm_name(capability): capability for capability in edition.capabilities(trt)}
    names = ", ".join(sorted(known, key=lambda name: version_numbers(known[name])))
    if not gpus:
        if why := why_no_gpu():
            raise InputError(f"gpu: got none, and none is here to build for ({why}); give --gpu, one of {names}")
        gpus = (sm_name(this_machine(trt).capability),)
    for gpu in gpus:
        if gpu not in known:
            raise InputError(f"gpu: got {gpu!r}, {edition.title} {trt.__version__} builds for {names}")
    return [Target(edition, trt, TrtMachine(trt.__version__, "", known[gpu])) for gpu in dict.fromkeys(gpus)]


@dataclass(frozen=True)
class _Job:
    bundle: Bundle
    """The copy."""
    original: Path
    precision: str
    options: EngineOptions
    tell: Tell

    def check_plugins(self, edition: Edition) -> None:
        """Raise BackendError where plugins are wanted and no graph has a node for one."""
        if self._plugins(edition) and not any(
            has_plugin_nodes(self.bundle.graph(graph, self.precision)) for graph in GRAPH_NAMES
        ):
            raise BackendError(
                f"its {self.precision} graphs hold standard ops alone, none of our kernels could go into an engine; "
                "export with --plugins on, or build with --plugins off"
            )

    def _plugins(self, edition: Edition) -> bool:
        return self.options.plugins and not edition.builds_anywhere

    def engine(self, graph: str, spec: GraphSpec, target: Target, rebuild: bool) -> EngineReport:
        """Build one engine into the copy; nothing is listed yet."""
        onnx = self.bundle.graph(graph, self.precision)
        sizes = profiles(cast("dict[str, int]", self.bundle.manifest.limits), self.options.max_batch)
        most = {axis: max(profile[axis][2] for profile in sizes) for axis in sizes[0]}
        prepared = tensorrt_graph(onnx, most, self._plugins(target.edition), self.options.references)
        record = self._record(graph, sha256(onnx), self._compiled(prepared, target), sizes, target)
        name = f"{graph} ({self.precision}, {record.where})"
        place = self.bundle.folder / ENGINES / self.precision / f"{graph}.{record.key}.plan"
        if not rebuild:
            for known in engine_files(self.bundle, graph, self.precision):
                if known.record.key == record.key:
                    self.tell(f"{name}: already there")
                    return EngineReport(known.record, place, False, place.stat().st_size)
        self.tell(f"{name}: building")
        place.parent.mkdir(parents=True, exist_ok=True)
        log, built = self._build(spec, prepared, sizes, target, place, lambda step: self.tell(f"{name}: {step}"))
        record = replace(
            record,
            **{each: getattr(built, each) for each in ("plugins", "layers", "inputs", "outputs")},
            seconds=round(built.seconds, 1),
        )
        _replace(place, built.plan)
        _replace(place.with_suffix(".json"), record.to_json().encode())
        return EngineReport(record, place, True, len(built.plan), log.scratch_bytes, tuple(dict.fromkeys(log.warnings)))

    def _compiled(self, prepared: TensorRTGraph, target: Target) -> str:
        """Compile and register the plugins of a graph; returns the hash of all their PTX."""
        if not prepared.plugins:
            return ""
        from img_deploy.kernels import plugin_ptx
        from img_deploy.kernels.trt_plugins import register_plugins

        self.tell(f"compiling {len(prepared.plugins)} kernels")
        capability = int(target.machine.capability.replace(".", ""))
        portable = self.options.hardware == "ampere_plus"
        place = plugin_ptx.PORTABLE if portable else plugin_ptx.Target(capability, target.machine.gpu)
        kernels: list[Any] = []
        for plugin in prepared.plugins:
            try:
                kernels += plugin_ptx.plugin_kernels(plugin.node, plugin.types, plugin.sizes, place)
            except ValueError as error:
                raise BackendError(f"{error}; build with --plugins off") from None
        register_plugins({plugin.node for plugin in prepared.plugins}, place)
        return plugin_ptx.kernels_digest(kernels)

    def _record(
        self, graph: str, onnx_sha256: str, ptx_sha256: str, sizes: tuple[Any, ...], target: Target
    ) -> EngineRecord:
        options, anywhere = self.options, target.edition.builds_anywhere
        settings = {
            "optimization_level": options.optimization_level,
            "workspace_mib": options.workspace_mib,
            "plugins": self._plugins(target.edition),
            "references": options.references,
        }
        return EngineRecord(
            graph=graph,
            precision=self.precision,
            **asdict(target.machine),
            hardware="same_capability" if anywhere else options.hardware,
            version_compatible=options.version_compatible and not anywhere,
            profiles=sizes,
            onnx_sha256=onnx_sha256,
            ptx_sha256=ptx_sha256,
            settings=settings,
            edition=target.edition.name,
            verified=False,
        )

    def _build(
        self, spec: GraphSpec, prepared: TensorRTGraph, sizes: tuple[Any, ...], target: Target, place: Path, tell: Tell
    ) -> tuple[BuildLog, BuiltEngine]:
        options, log_path = self.options, place.with_suffix(".log")
        if options.timing_cache is None:
            # Timings are kept from one build to the next: a second one takes a fraction of the time.
            kept = cache_folder(f"{target.edition.name}-{target.trt.__version__}.timing")
            options = replace(options, timing_cache=kept)
        try:
            with BuildLog(log_path, target.trt) as log:
                return log, engine_from_onnx(prepared, spec, sizes, options, target, log, tell)
        except BaseException as error:
            # The log outlives the failure, outside of the bundle.
            failed = self.original.with_name(f"{self.original.name}.{spec.name}.{self.precision}.log")
            if log_path.exists():
                shutil.move(log_path, failed)
            if isinstance(error, BackendError):
                raise BackendError(str(error).replace(str(log_path), str(failed))) from None
            raise

    def publish(self, reports: list[EngineReport], target: Target) -> list[EngineReport]:
        """List the engines in the copy's manifest; run those that fit this machine and write down what came of it."""
        manifest, folder = self.bundle.manifest, self.bundle.folder
        listed = manifest.engines.setdefault(self.precision, {graph: [] for graph in GRAPH_NAMES})
        for report in reports:
            name = report.path.with_suffix(".json").relative_to(folder).as_posix()
            listed[report.record.graph] = [name, *(each for each in listed[report.record.graph] if each != name)]
        write_manifest(folder, manifest)
        here = _here(reports, target)
        if not here:
            return reports
        self.tell("verifying the engines")
        rows = verified(self.bundle.in_precision(self.precision), self.original, target.edition)
        done = []
        for report in reports:
            if report in here:
                report = replace(report, record=replace(report.record, verified=True))
                _replace(report.path.with_suffix(".json"), report.record.to_json().encode())
            done.append(report)
        table = dict(manifest.verification)
        kept = [row for row in table.get("rows", []) if not _is_of(row, target.edition, self.precision)]
        table["rows"] = [*kept, *map(asdict, rows)]
        _replace(folder / REPORT, markdown(Verification.from_dict(table)).encode())
        manifest.verification = table
        write_manifest(folder, manifest)
        return done


def _here(reports: list[EngineReport], target: Target) -> list[EngineReport]:
    """The engines that can be run on this machine."""
    if target.edition.builds_anywhere:
        if why_no_gpu() is not None:
            return []
        own = this_machine(target.trt).capability
        return [report for report in reports if report.record.capability == own]
    return reports


def _is_of(row: dict[str, Any], edition: Edition, precision: str) -> bool:
    return row["backend"] == edition.name and row["precision"] == precision


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew: one that is linked to the original bundle's must not be written into."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
