"""What is inside a checkpoint or a bundle, as sections of names and values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img_deploy.errors import BundleError, InputError
from img_deploy.export.verify import Verification
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import GRAPH_NAMES, TensorSpec, graph_specs
from img_deploy.runtime.backends.choose import has_packages
from img_deploy.runtime.backends.tensorrt.records import engine_files
from img_deploy.runtime.bundle import MANIFEST, Bundle

Section = dict[str, Any]


@dataclass(frozen=True)
class Inspection:
    """``sections`` maps a heading to names and plain values; ``tables`` a heading to columns of cells."""

    path: Path
    kind: str
    """``checkpoint`` or ``bundle``."""
    sections: dict[str, Section] = field(default_factory=dict)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    verification: Verification | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything, for programs; tables as lists of objects."""
        rows = {
            name: [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
            for name, table in self.tables.items()
        }
        checks = {} if self.verification is None else {"verification": self.verification.as_dict()}
        return {"path": str(self.path), "kind": self.kind, **self.sections, **rows, **checks}


def inspect_path(path: Path) -> Inspection:
    """Read a checkpoint file or a bundle folder; every file of a bundle is checked against its hash.

    Raises:
        InputError: neither of the two, or damaged; names what was found.
    """
    if path.is_dir():
        return _bundle(path)
    if path.name == MANIFEST:
        raise InputError(f"{path}: got a bundle's manifest, expected the bundle; give the folder {path.parent}")
    return _checkpoint(path)


def _checkpoint(path: Path) -> Inspection:
    from img_deploy.model.checkpoint import Checkpoint, check_tensors
    from img_deploy.model.network import IMGNetwork

    checkpoint = Checkpoint.load(path)
    check_tensors(checkpoint.weights, IMGNetwork(checkpoint.config).state_dict(), str(path))
    vocabulary = checkpoint.vocabulary
    network_section = {
        **_network(checkpoint.config, checkpoint.features),
        "parameters": _parameters(checkpoint.config),
        "tensors": len(checkpoint.weights),
        "noise_seed": checkpoint.noise_seed,
        "words": None if vocabulary is None else len(vocabulary),
        "characters": None if vocabulary is None else len(vocabulary.chars),
        "bytes": path.stat().st_size,
    }
    sections = {"network": network_section, "configuration": checkpoint.config.as_dict()}
    sections |= _if_any(provenance=checkpoint.provenance, metrics=checkpoint.metrics)
    return Inspection(path, "checkpoint", sections, {"graphs": _graphs(checkpoint.config)})


def _bundle(path: Path) -> Inspection:
    bundle = Bundle.open(path)
    bundle.check_all()
    manifest = bundle.manifest
    vocabulary, engines = bundle.vocabulary(), _engines(bundle)
    section = {
        **_network(manifest.model, manifest.features),
        "parameters": _parameters(manifest.model),
        "noise_seed": manifest.noise_seed,
        "words": None if vocabulary is None else len(vocabulary),
        "characters": None if vocabulary is None else len(vocabulary.chars),
        "precisions": ", ".join(manifest.graphs),
        "default_precision": manifest.precision,
        "engines": len(engines.get("engines", {}).get("graph", ())),
        "packages": "no longer used (aoti)" if has_packages(bundle) else None,
        "schema": manifest.schema,
    }
    sections = {"bundle": section, "limits": dict(manifest.limits), "configuration": dict(manifest.config)}
    sections |= _if_any(provenance=manifest.provenance, metrics=manifest.metrics, versions=manifest.versions)
    files: dict[str, list[Any]] = {
        "file": list(manifest.files),
        "bytes": [(bundle.folder / name).stat().st_size for name in manifest.files],
        "sha256": list(manifest.files.values()),
        "state": ["as listed" for _ in manifest.files],  # check_all raised otherwise
    }
    tables = {"graphs": _graphs(manifest.model), **engines, "files": files}
    return Inspection(path, "bundle", sections, tables, _verification(bundle))


def _engines(bundle: Bundle) -> dict[str, dict[str, list[Any]]]:
    """The table of a bundle's TensorRT engines; no table where it has none."""
    engines = [
        each
        for precision in bundle.manifest.engines
        for graph in GRAPH_NAMES
        for each in engine_files(bundle, graph, precision)
    ]
    if not engines:
        return {}
    records = [each.record for each in engines]
    columns: dict[str, list[Any]] = {
        "graph": [record.graph for record in records],
        "precision": [record.precision for record in records],
        "backend": [record.edition for record in records],
        "version": [record.tensorrt for record in records],
        "gpu": [record.where for record in records],
        "bytes": [(bundle.folder / each.plan).stat().st_size for each in engines],
        "state": ["verified" if record.verified else "not run yet" for record in records],
    }
    return {"engines": columns}


def _verification(bundle: Bundle) -> Verification | None:
    if not bundle.manifest.verification:
        return None
    try:
        return Verification.from_dict(bundle.manifest.verification)
    except (KeyError, TypeError):
        raise BundleError(f"{bundle.folder / MANIFEST}: its verification is damaged; export the bundle again") from None


def _network(config: ModelConfig, features: Mapping[str, Mapping[str, Any]]) -> Section:
    kinds = {f"{name}_features": f"{kind.get('name')}, width {kind.get('width')}" for name, kind in features.items()}
    return {"variant": config.variant, **kinds}


def _parameters(config: ModelConfig) -> int:
    from img_deploy.model.network import IMGNetwork

    return sum(parameter.numel() for parameter in IMGNetwork(config).parameters())


def _graphs(config: ModelConfig) -> dict[str, list[Any]]:
    rows = [
        (spec.name, way, tensor.name, tensor.dtype, _shape(tensor))
        for spec in graph_specs(config).values()
        for way, tensors in (("in", spec.inputs), ("out", spec.outputs))
        for tensor in tensors
    ]
    return {name: [row[i] for row in rows] for i, name in enumerate(("graph", "way", "tensor", "type", "shape"))}


def _shape(tensor: TensorSpec) -> str:
    return f"[{', '.join(map(str, tensor.axes))}]"


def _if_any(**sections: Section) -> dict[str, Section]:
    return {name: _flat(section) for name, section in sections.items() if section}


def _flat(section: Mapping[str, Any]) -> Section:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: Section = {}
    for name, value in section.items():
        if value == "":
            continue
        inner = _flat(value) if isinstance(value, dict) else None
        flat |= {name: value} if inner is None else {f"{name}.{key}": each for key, each in inner.items()}
    return flat
