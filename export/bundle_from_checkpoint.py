"""A bundle from a checkpoint: everything that answering needs, verified before it takes the place of an old one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from img_deploy.errors import FeatureError, InputError, VerificationError
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.model_repository import FOLDER as REPOSITORY
from img_deploy.export.model_repository import write_model_repository
from img_deploy.export.report import REPORT, failure, markdown
from img_deploy.export.verify import BUDGETS, Row, Verification, compare, in_run_order, results
from img_deploy.model.graphs import graph_specs
from img_deploy.runtime.backends.tensorrt.edition import EDITIONS, RTX
from img_deploy.runtime.bundle import VOCABULARY, WEIGHTS, Bundle, Limits, Manifest, replacing, write_manifest

if TYPE_CHECKING:
    from img_deploy.export.engines import EngineReport
    from img_deploy.export.samples import Sample
    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.model.network import IMGNetwork

TARGETS = ("onnx", *EDITIONS, "model-repository")
DROPPED = {
    "aoti": "packages compiled by AOTInductor were dropped: on a CPU they were no faster than eager PyTorch, and "
    "slower than ONNX Runtime; leave aoti out"
}


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and on what to try it."""

    precisions: tuple[str, ...] = ("fp32",)
    """The first is what the bundle runs by default."""
    targets: tuple[str, ...] = ("onnx",)
    """``onnx`` always; the editions of TensorRT build engines from the graphs."""
    samples: Path | None = None
    """Feature folder to verify on; None draws features."""
    sample_queries: Path | None = None
    """Annotation file with the queries of those videos; None draws queries."""
    seed: int = 0
    """Of the drawn features and queries."""
    plugins: bool = False
    """Leave fused ops single nodes, which TensorRT may replace by our kernels; other runtimes run their bodies."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """How engines are built, where they are asked for."""
    gpus: tuple[str, ...] = ()
    """What TensorRT for RTX builds for (``sm89``); none is the GPU of this machine."""

    def __post_init__(self) -> None:
        for target in self.targets:
            if target in DROPPED:
                raise InputError(f"target {target}: {DROPPED[target]}")
        for name, values, known in (("precision", self.precisions, BUDGETS), ("target", self.targets, TARGETS)):
            for value in values:
                if value not in known:
                    raise InputError(f"{name}: got {value!r}, expected one or more of {', '.join(known)}")
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name}: got {', '.join(values) or 'none'}, expected each once")
        if self.gpus and RTX.name not in self.targets:
            raise InputError(f"gpu: got {', '.join(self.gpus)} without the target {RTX.name}; add it to --targets")
        if self.sample_queries is not None and self.samples is None:
            raise InputError(f"sample queries: got {self.sample_queries} without a sample folder; give --samples too")
        if "onnx" not in self.targets:
            raise InputError(f"target: got no onnx, which the others are made from; give onnx,{','.join(self.targets)}")


def _silent(_: object) -> None:
    pass


def bundle_from_checkpoint(
    checkpoint: "Checkpoint",
    out: Path,
    options: ExportOptions | None = None,
    tell: Callable[[str], None] = _silent,
    show: Callable[[Verification], None] = _silent,
    show_engines: "Callable[[Sequence[EngineReport]], None]" = _silent,
) -> Verification:
    """Export a checkpoint into the bundle folder ``out``.

    An older bundle there is replaced as a whole, once the new one is verified; it stays as it is otherwise.

    Args:
        checkpoint: what to export.
        out: folder; may not hold anything but a bundle.
        options: see :class:`ExportOptions`.
        tell: is told each step, in a few words.
        show: is given the verification, passed or not.
        show_engines: is given what was built, where engines were asked for.

    Raises:
        VerificationError: an artifact is farther from the eager fp32 network than its precision may be.
        BundleError: ``out`` cannot be written or holds something else.
        FeatureError: the sample folder does not hold the checkpoint's features.
        BackendError: no engines could be built; the bundle is written, and runs without them.
    """
    options = options or ExportOptions()
    if RTX.name in options.targets:
        from img_deploy.export.engines import targets_for

        targets_for(RTX, options.gpus)  # refuses what cannot be built before the graphs are made
    network = checkpoint.network()
    samples = _samples(checkpoint, options)
    with replacing(out) as folder:
        graphs = _write_artifacts(checkpoint, network, folder, options, tell)
        if "model-repository" in options.targets:
            precision = options.precisions[0]
            write_model_repository(folder, checkpoint.config, precision, graphs[precision], folder / REPOSITORY)
        manifest = _manifest(checkpoint, graphs, options)
        write_manifest(folder, manifest)
        tell("verifying")
        rows = _verified(network, Bundle.open(folder), samples, options)
        verification = Verification(_source(samples, options), options.seed, tuple(rows))
        show(verification)
        if not verification.passed:
            raise VerificationError(f"{out}: not written; {failure(verification)}")
        (folder / REPORT).write_text(markdown(verification), encoding="utf-8")
        manifest.verification = verification.as_dict()
        write_manifest(folder, manifest)
    for edition in (EDITIONS[name] for name in EDITIONS if name in options.targets):
        from img_deploy.export.engines import add_engines

        gpus = options.gpus if edition is RTX else ()
        for precision in options.precisions:
            show_engines(add_engines(out, precision, options.engine, tell, edition=edition, gpus=gpus))
    return verification


def _samples(checkpoint: "Checkpoint", options: ExportOptions) -> "list[Sample]":
    from img_deploy.export.samples import drawn_samples, folder_samples

    if options.samples is None:
        return in_run_order(drawn_samples(checkpoint.config, checkpoint.vocabulary, options.seed))
    samples = folder_samples(options.samples, checkpoint, options.seed, options.sample_queries)
    if all(sample.clips.audio is None for sample in samples):
        raise FeatureError(f"{options.samples}: no video has sound, so the fused head cannot be tried; add audio")
    return in_run_order(samples)


def _source(samples: "Sequence[Sample]", options: ExportOptions) -> str:
    if options.samples is None:
        return f"{len(samples)} drawn samples"
    return f"{len(samples)} videos of {options.samples.name}, {'own' if options.sample_queries else 'drawn'} queries"


def _write_artifacts(
    checkpoint: "Checkpoint", network: "IMGNetwork", folder: Path, options: ExportOptions, tell: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """Write weights, vocabulary and graphs; returns the graphs' files by precision and name."""
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(weights))
    if checkpoint.vocabulary is not None:
        (folder / VOCABULARY).mkdir()
        checkpoint.vocabulary.save(folder / VOCABULARY)
    return {
        precision: _write_graphs(network, folder, precision, options.plugins, tell) for precision in options.precisions
    }


def _write_graphs(
    network: "IMGNetwork", folder: Path, precision: str, plugins: bool, tell: Callable[[str], None]
) -> dict[str, str]:
    import onnx

    from img_deploy.export.functions import FunctionLibrary
    from img_deploy.export.onnx_from_program import model_metadata, onnx_from_program
    from img_deploy.export.precision import network_in
    from img_deploy.export.programs import program_from_graph

    typed, library, files = network_in(network, precision), FunctionLibrary(), {}
    for name, spec in graph_specs(network.config).items():
        tell(f"exporting {name} ({precision})")
        metadata = model_metadata(spec, network.config, precision, plugins)
        program = program_from_graph(typed, spec)
        model = onnx_from_program(program, spec, library, metadata, precision, plugins)
        files[name] = f"onnx/{precision}/{name}.onnx"
        path = folder / files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
    return files


def _manifest(checkpoint: "Checkpoint", graphs: dict[str, dict[str, str]], options: ExportOptions) -> Manifest:
    from img_deploy.export.programs import limits

    return Manifest(
        config=checkpoint.config.as_dict(),
        features=checkpoint.features,
        limits=cast(Limits, limits(checkpoint.config)),
        graphs=graphs,
        noise_seed=checkpoint.noise_seed,
        precision=options.precisions[0],
        provenance=checkpoint.provenance,
        metrics=checkpoint.metrics,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from img_deploy import __version__

    found = {"img-deploy": __version__, "python": python_version()}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _verified(
    network: "IMGNetwork",
    bundle: Bundle,
    samples: "Sequence[Sample]",
    options: ExportOptions,
) -> list[Row]:
    """Each precision in ONNX Runtime where its CPU kernels take it, and what its types alone cost in eager PyTorch."""
    from img_deploy.export.precision import IN_ORT, TypedTorchBackend
    from img_deploy.runtime.backends.onnxruntime.backend import OrtBackend
    from img_deploy.runtime.backends.torch.backend import TorchBackend, open_backend

    reference = results(TorchBackend(network), samples, batch_size=1)
    rows = []
    for precision in options.precisions:
        own = bundle.in_precision(precision)
        sizes = {graph: own.graph(graph).stat().st_size for graph in own.manifest.graphs[precision]}
        if precision in IN_ORT:
            rows += compare(OrtBackend(own), samples, reference, sizes)
        if precision != "fp32":
            rows += compare(TypedTorchBackend(network, precision), samples, reference, sizes, (64,))
    size = bundle.file(WEIGHTS).stat().st_size
    weights = dict.fromkeys(bundle.manifest.graphs[options.precisions[0]], size)
    return rows + compare(open_backend("cpu", bundle, None), samples, reference, weights, (64,))
