"""The deployable folder: a manifest beside the files it lists, each with its sha256. Nothing in it is a pickle.

Needs neither torch nor ONNX.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from img_deploy.errors import BundleError, ConfigError, validation_problems
from img_deploy.files import replacing_folder, sha256, write_text
from img_deploy.model.config import ModelConfig

if TYPE_CHECKING:
    from img_deploy.text.vocabulary import Vocabulary

MANIFEST = "manifest.json"
SCHEMA = 1
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary"

Length = Annotated[int, Field(gt=0, le=1 << 14)]
"""Its end lies beyond any limit of an input's length."""
Sha256 = Annotated[str, Field(min_length=64, max_length=64)]


class Limits(TypedDict):
    """The longest inputs that the graphs take."""

    clips: Length
    words: Length
    chars: Length


@dataclass(config=ConfigDict(strict=True, extra="forbid"))
class Manifest:
    """What a bundle says of itself.

    ``graphs`` maps a precision (``fp32``) to the ONNX file of each graph; ``engines`` likewise for engines built on
    some machine; ``files`` maps every file of the bundle to its sha256. Paths are relative, with forward slashes.
    """

    config: dict[str, Any]
    features: dict[str, dict[str, Any]]
    limits: Limits
    graphs: dict[str, dict[str, str]]
    noise_seed: int
    precision: str = "fp32"
    files: dict[str, Sha256] = field(default_factory=dict)
    engines: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    """Table of :mod:`img_deploy.export.verify`: how far each artifact is from the eager fp32 network."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of the checkpoint it was made from."""
    schema: int = SCHEMA

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.from_dict(self.config)


class Bundle:
    """An opened bundle. Every file is checked against its hash before its path is given out."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._checked: set[str] = set()

    @cached_property
    def identity(self) -> str:
        """What two bundles share whose encodings may be mixed: one network's weights, whatever precision or backend."""
        manifest = self.manifest
        weights = manifest.files.get(WEIGHTS) or sorted(manifest.files.values())
        content = json.dumps([manifest.config, manifest.noise_seed, weights], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Bundle":
        """Read the manifest. Raises BundleError: no bundle, damaged, newer schema, paths that leave the folder."""
        folder = Path(folder)
        path = folder / MANIFEST
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise BundleError(f"{folder}: got {found}, expected a bundle folder; make one with `img-deploy export`")
        if not path.exists():
            raise BundleError(f"{folder}: has no {MANIFEST}, so it is no bundle; make one with `img-deploy export`")
        if not path.is_file():
            raise BundleError(f"{path}: is not a regular file; export the bundle again")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); change its mode or its owner") from None
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path}: not readable as JSON ({error}); export the bundle again") from None
        return cls(folder, _manifest(content, path))

    def file(self, name: str) -> Path:
        """Path of a listed file whose content matches its hash. Raises BundleError."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: the manifest lists no {name}; export the bundle again")
        path = self.folder / name
        if name not in self._checked:
            if not path.is_file():
                raise BundleError(f"{path}: missing, though the manifest lists it; export the bundle again")
            if sha256(path) != self.manifest.files[name]:
                raise BundleError(f"{path}: its content does not match the manifest's sha256; export the bundle again")
            self._checked.add(name)
        return path

    def check_all(self) -> None:
        """Check the hash of every listed file. Raises BundleError naming the first that differs."""
        for name in self.manifest.files:
            self.file(name)

    def graph(self, name: str, precision: str | None = None) -> Path:
        """The checked ONNX file of a graph. Raises BundleError where the bundle has no such precision."""
        precision = precision or self.manifest.precision
        if precision not in self.manifest.graphs:
            have = ", ".join(self.manifest.graphs)
            raise BundleError(f"{self.folder}: holds no {precision} graphs, only {have}; export with --precision")
        if name not in self.manifest.graphs[precision]:
            raise BundleError(f"{self.folder}: holds no {precision} graph {name}; export the bundle again")
        return self.file(self.manifest.graphs[precision][name])

    def in_precision(self, precision: str) -> "Bundle":
        """The same bundle with another default precision."""
        return Bundle(self.folder, replace(self.manifest, precision=precision))

    def vocabulary(self) -> "Vocabulary | None":
        """The vocabulary of a GloVe bundle, None for token features."""
        from img_deploy.text.vocabulary import Vocabulary

        names = [name for name in self.manifest.files if name.startswith(f"{VOCABULARY}/")]
        for name in names:
            self.file(name)
        return Vocabulary.load(self.folder / VOCABULARY) if names else None


def _manifest(content: Any, path: Path) -> Manifest:
    if not isinstance(content, dict) or type(content.get("schema")) is not int or content["schema"] < 1:
        raise BundleError(f"{path}: not a bundle manifest; export the bundle again")
    if content["schema"] > SCHEMA:
        raise BundleError(f"{path}: got schema {content['schema']}, this program reads up to {SCHEMA}; update it")
    try:
        manifest = Manifest(**content)
        manifest.model  # noqa: B018 - raises if the configuration is not one
    except (ValidationError, TypeError, ConfigError) as error:
        why = validation_problems(error) if isinstance(error, ValidationError) else error
        raise BundleError(f"{path}: not a bundle manifest of schema {SCHEMA} ({why}); export it again") from None
    try:
        for name in manifest.files:
            check_inside(name, path)
    except OSError as error:
        raise BundleError(f"{path}: names a file that cannot be looked up ({error.strerror})") from None
    for name in (name for graphs in manifest.graphs.values() for name in graphs.values()):
        if name not in manifest.files:
            raise BundleError(f"{path}: names {name} without its sha256; export the bundle again")
    return manifest


def check_inside(name: str, path: Path) -> None:
    """Raise BundleError unless ``name`` is a plain relative path that stays in its bundle."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ":" in name or any(p in ("..", ".") for p in parts):
        raise BundleError(f"{path}: names the file {name!r} outside its bundle; do not use this bundle")
    if any((path.parent / PurePosixPath(*parts[:depth])).is_symlink() for depth in range(1, len(parts) + 1)):
        raise BundleError(f"{path}: {name!r} is a symbolic link; copy the bundle with its files")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Hash every file below ``folder`` into the manifest and write it (atomically)."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest.files = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of a bundle when the block ends well (:func:`replacing_folder`).

    Raises:
        BundleError: ``folder`` holds something that is not a bundle, or cannot be written.
    """
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise BundleError(f"{folder}: exists and is no folder; choose another --out")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
            raise BundleError(f"{folder}: holds files but no bundle, and would be replaced; choose another --out")
        with replacing_folder(folder) as temporary:
            yield temporary
    except OSError as error:
        raise BundleError(f"{folder}: cannot write the bundle ({error.strerror}); choose another --out") from None
