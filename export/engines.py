"""TensorRT engines for a bundle: built for this machine, tried against the eager network, then listed in the manifest.

Until every engine of a precision is built and tried, the bundle stays as it was and runs with ONNX Runtime.
Not yet run on a GPU.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from img_deploy.errors import BackendError, ImgDeployError, VerificationError
from img_deploy.export.engine_from_onnx import BuiltEngine, engine_from_onnx
from img_deploy.export.engine_log import BuildLog
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.report import REPORT, markdown
from img_deploy.export.tensorrt_graph import TensorRTGraph, has_plugin_nodes, tensorrt_graph
from img_deploy.export.verify import Verification
from img_deploy.files import sha256
from img_deploy.model.graphs import GRAPH_NAMES, GraphSpec, graph_specs
from img_deploy.runtime.backends.tensorrt.engine import tensorrt_module, this_machine
from img_deploy.runtime.backends.tensorrt.profiles import profiles
from img_deploy.runtime.backends.tensorrt.records import ENGINES, EngineRecord, TrtMachine, engine_files
from img_deploy.runtime.bundle import Bundle, write_manifest

KEPT = "the bundle is whole and answers with `--backend onnxruntime`"


@dataclass(frozen=True)
class EngineReport:
    """What became of one graph."""

    record: EngineRecord
    path: Path
    built: bool
    """False where the bundle already had this very engine."""
    bytes: int


def _silent(_: object) -> None:
    pass


def add_engines(
    folder: Path,
    precision: str | None = None,
    options: EngineOptions | None = None,
    tell: Callable[[str], None] = _silent,
    rebuild: bool = False,
) -> list[EngineReport]:
    """Build the engines of a bundle for this machine and add them to it.

    Args:
        folder: the bundle.
        precision: of the ONNX graphs to build from; None takes the bundle's default.
        options: see :class:`EngineOptions`.
        tell: is told each step, in a few words.
        rebuild: build also what the bundle already has, built the same way on the same machine.

    Returns:
        One report per graph.

    Raises:
        BackendError: TensorRT is missing or too old, finds no GPU, or cannot build a graph. The bundle is as before;
            the log of the failed build lies beside it.
        VerificationError: an engine is farther from the eager fp32 network than its precision may be.
        BundleError: no bundle, damaged, or without graphs of this precision.
    """
    options = options or EngineOptions()
    bundle = Bundle.open(folder)
    bundle.check_all()  # the manifest is written anew below: nothing that was tampered with may be hashed again
    precision = precision or bundle.manifest.precision
    try:
        trt = tensorrt_module()
        job = _Job(bundle, precision, _with_cache(options, trt), trt, this_machine(trt), tell)
        reports: list[EngineReport] = []
        try:
            job.check_plugins()
            for graph, spec in graph_specs(bundle.manifest.model).items():
                reports.append(job.engine(graph, spec, rebuild))
            job.publish(reports)
        except BaseException:
            _take_out(reports)
            raise
    except BackendError as error:
        raise BackendError(f"{folder}: no engines added: {error}; {KEPT}") from None
    return reports


def _take_out(reports: list[EngineReport]) -> None:
    for report in reports:
        if report.built:
            for suffix in (".plan", ".json", ".log"):
                report.path.with_suffix(suffix).unlink(missing_ok=True)


def _with_cache(options: EngineOptions, trt: Any) -> EngineOptions:
    """Timings are kept from one build to the next: a second one takes a fraction of the time."""
    if options.timing_cache is not None:
        return options
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return replace(options, timing_cache=caches / "img-deploy" / f"tensorrt-{trt.__version__}.timing")


@dataclass(frozen=True)
class _Job:
    bundle: Bundle
    precision: str
    options: EngineOptions
    trt: Any
    machine: TrtMachine
    tell: Callable[[str], None]

    @property
    def limits(self) -> dict[str, int]:
        return {axis: self.bundle.manifest.limits[axis] for axis in ("clips", "words", "chars")}

    def check_plugins(self) -> None:
        """Raise BackendError where plugins are wanted and no graph has a node for one."""
        if self.options.plugins and not any(
            has_plugin_nodes(self.bundle.graph(graph, self.precision)) for graph in GRAPH_NAMES
        ):
            raise BackendError(
                f"its {self.precision} graphs hold standard ops alone, none of our kernels could go into an engine; "
                "export with --plugins on, or build with --plugins off"
            )

    def engine(self, graph: str, spec: GraphSpec, rebuild: bool) -> EngineReport:
        """Build one engine into the bundle's folder; nothing is listed yet."""
        onnx = self.bundle.graph(graph, self.precision)
        limits = {**self.limits, "batch": self.options.max_batch}
        prepared = tensorrt_graph(onnx, limits, self.options.plugins, self.options.references)
        self.tell(f"{graph}: compiling {len(prepared.plugins)} kernels")
        record = self._record(graph, sha256(onnx), self._compiled(prepared))
        place = self.bundle.folder / ENGINES / self.precision / f"{graph}.{record.key}.plan"
        if not rebuild:
            for known in engine_files(self.bundle, graph, self.precision):
                if known.record.key == record.key:
                    self.tell(f"{graph}: already there")
                    return EngineReport(known.record, place, False, place.stat().st_size)
        self.tell(f"{graph}: building")
        place.parent.mkdir(parents=True, exist_ok=True)
        built = self._build(graph, spec, prepared, place)
        record = replace(
            record,
            **{name: getattr(built, name) for name in ("plugins", "layers", "inputs", "outputs")},
            seconds=round(built.seconds, 1),
        )
        _write(place, built.plan)
        _write(place.with_suffix(".json"), record.to_json().encode())
        return EngineReport(record, place, True, len(built.plan))

    def _compiled(self, prepared: TensorRTGraph) -> str:
        """Compile and register the plugins of a graph; returns the hash of all their PTX."""
        if not prepared.plugins:
            return ""
        from img_deploy.kernels.plugin_ptx import PORTABLE, Target, kernels_digest, plugin_kernels
        from img_deploy.kernels.trt_plugins import register_plugins

        capability = int(self.machine.capability.replace(".", ""))
        target = PORTABLE if self.options.hardware == "ampere_plus" else Target(capability, self.machine.gpu)
        kernels: list[Any] = []
        for plugin in prepared.plugins:
            try:
                kernels += plugin_kernels(plugin.node, plugin.types, plugin.sizes, target)
            except ValueError as error:
                raise BackendError(f"{error}; build with --plugins off") from None
        register_plugins({plugin.node for plugin in prepared.plugins}, target)
        return kernels_digest(kernels)

    def _record(self, graph: str, onnx_sha256: str, ptx_sha256: str) -> EngineRecord:
        options = self.options
        settings = {
            "optimization_level": options.optimization_level,
            "workspace_mib": options.workspace_mib,
            "plugins": options.plugins,
            "references": options.references,
        }
        return EngineRecord(
            graph=graph,
            precision=self.precision,
            tensorrt=self.machine.tensorrt,
            gpu=self.machine.gpu,
            capability=self.machine.capability,
            platform=self.machine.platform,
            hardware=options.hardware,
            version_compatible=options.version_compatible,
            profiles=profiles(self.limits, options.max_batch),
            onnx_sha256=onnx_sha256,
            ptx_sha256=ptx_sha256,
            settings=settings,
        )

    def _build(self, graph: str, spec: GraphSpec, prepared: TensorRTGraph, place: Path) -> BuiltEngine:
        folder = self.bundle.folder
        failed = folder.with_name(f"{folder.name}.{graph}.{self.precision}.log")
        log_path = place.with_suffix(".log")

        def say(step: str) -> None:
            self.tell(f"{graph}: {step}")

        try:
            with BuildLog(log_path, self.trt) as log:
                built = engine_from_onnx(prepared, spec, self.limits, self.options, self.trt, log, say)
        except BaseException as error:
            # The log outlives the failure, outside of the bundle, which is left as it was.
            if log_path.exists():
                shutil.move(log_path, failed)
            if isinstance(error, BackendError):
                raise BackendError(str(error).replace(str(log_path), str(failed))) from None
            raise
        return built

    def publish(self, reports: list[EngineReport]) -> None:
        """Try the engines, then list them. The manifest is written at the end, or put back where they fail."""
        manifest, folder = self.bundle.manifest, self.bundle.folder
        engines: dict[str, dict[str, list[str]]] = {
            precision: {graph: list(names) for graph, names in graphs.items()}
            for precision, graphs in manifest.engines.items()
        }
        listed = engines.setdefault(self.precision, {graph: [] for graph in GRAPH_NAMES})
        for report in reports:
            name = report.path.with_suffix(".json").relative_to(folder).as_posix()
            listed[report.record.graph] = [name, *(each for each in listed[report.record.graph] if each != name)]
        before = replace(manifest, files=dict(manifest.files))
        try:
            write_manifest(folder, replace(manifest, engines=engines))
            self.tell("verifying the engines")
            rows = verified(folder, self.precision)
            if self.options.references:
                self.tell("the engines agree with PyTorch's references in the place of our kernels; taken out again")
                _take_out(reports)
                write_manifest(folder, before)
                return
            table = dict(manifest.verification)
            kept = [row for row in table.get("rows", []) if not _is_of(row, self.precision)]
            table["rows"] = [*kept, *rows]
            (folder / REPORT).write_text(markdown(Verification.from_dict(table)), encoding="utf-8")
            write_manifest(folder, replace(manifest, engines=engines, verification=table))
        except BaseException:
            _take_out(reports)  # first: the manifest lists whatever lies in the folder
            write_manifest(folder, before)
            raise


def _is_of(row: dict[str, Any], precision: str) -> bool:
    return row["backend"] == "tensorrt" and row["precision"] == precision


def verified(folder: Path, precision: str, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the verification table for the engines of a bundle, on drawn samples of many lengths and batches.

    Raises:
        VerificationError: an engine is farther from the eager fp32 network than its precision may be.
    """
    from dataclasses import asdict

    from img_deploy.export.samples import drawn_samples
    from img_deploy.export.verify import compare, in_run_order, results
    from img_deploy.runtime.backends.tensorrt import backend as tensorrt_backend
    from img_deploy.runtime.backends.torch import backend as torch_backend

    bundle = Bundle.open(folder).in_precision(precision)
    samples = in_run_order(drawn_samples(bundle.manifest.model, bundle.vocabulary(), seed))
    reference = results(torch_backend.open_backend("cpu", bundle, None), samples, batch_size=1)
    backend = tensorrt_backend.open_backend("cuda", bundle, None)
    sizes = {graph: (bundle.folder / engine_files(bundle, graph)[0].plan).stat().st_size for graph in GRAPH_NAMES}
    try:
        rows = compare(backend, samples, reference, sizes)
    finally:
        backend.close()
    if wrong := [row for row in rows if not row.passed]:
        parts = [f"{row.graph} differs by {row.largest:.2g}" for row in wrong]
        raise VerificationError(
            f"{folder}: the {precision} engines do not agree with the eager fp32 network ({', '.join(parts)}); "
            f"they were taken out again, and {KEPT}; try --plugins off to see whether a kernel is at fault"
        )
    return [asdict(row) for row in rows]


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ImgDeployError(f"{path}: cannot be written ({error.strerror}); make room and build again") from None
