"""Engines for the machine at hand, where a bundle's own were built for another."""

from collections.abc import Callable
from pathlib import Path

from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.engines import EngineReport, add_engines
from img_deploy.export.tensorrt_graph import has_plugin_nodes
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.tensorrt.backend import unfit
from img_deploy.runtime.backends.tensorrt.edition import FULL
from img_deploy.runtime.backends.tensorrt.engine import this_machine
from img_deploy.runtime.backends.tensorrt.records import EngineRecord, engine_files
from img_deploy.runtime.bundle import Bundle


def rebuild_engines(folder: Path, tell: Callable[[str], None]) -> list[EngineReport]:
    """Build the engines of a bundle's default precision that do not fit this machine, the way its others were built.

    Args:
        folder: the bundle; what was built for other machines is kept in it.
        tell: is told why, and each step.

    Returns:
        One report per graph; empty where all engines fit.

    Raises:
        BackendError: TensorRT is missing or too old, finds no GPU, or cannot build a graph.
        VerificationError: an engine does not agree with the eager network.
        BundleError: no bundle, or damaged.
    """
    bundle = Bundle.open(folder)
    wrong = unfit(bundle, this_machine(FULL.load()))
    if not wrong:
        return []
    for graph, reasons in wrong.items():
        tell(f"{graph}: {'; or '.join(reasons)}")
    return add_engines(folder, options=_options(bundle), tell=tell)


def _options(bundle: Bundle) -> EngineOptions:
    known = [engine.record for graph in GRAPH_NAMES for engine in engine_files(bundle, graph, edition=FULL)]
    if known:
        return options_of(known[0])
    return EngineOptions(plugins=any(has_plugin_nodes(bundle.graph(graph)) for graph in GRAPH_NAMES))


def options_of(record: EngineRecord) -> EngineOptions:
    """How an engine was built, for building it again elsewhere."""
    return EngineOptions(
        max_batch=max(profile["batch"][2] for profile in record.profiles),
        workspace_mib=record.settings["workspace_mib"],
        hardware=record.hardware,
        version_compatible=record.version_compatible,
        optimization_level=record.settings["optimization_level"],
        plugins=record.settings["plugins"],
    )
