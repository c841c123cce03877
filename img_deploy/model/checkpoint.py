"""One self-contained checkpoint file, ``best.pt``: everything that inference needs, loaded without running code."""

import io
import json
import os
import pickle
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from img_deploy.errors import CheckpointError, ConfigError
from img_deploy.files import replacing_file
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork

if TYPE_CHECKING:
    from img_deploy.text.vocabulary import Vocabulary

FORMAT = "img-deploy-checkpoint"
SCHEMA = 1


@dataclass
class Checkpoint:
    """What ``best.pt`` holds.

    ``weights`` is ``IMGNetwork(config).state_dict()`` with the recorded slot noise; ``features`` maps ``video``,
    ``audio`` (and ``text`` in the token variant) to ``{"name": kind, "width": int}``; ``vocabulary`` is None in the
    token variant; ``provenance`` and ``metrics`` are plain values.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    features: dict[str, dict[str, Any]]
    noise_seed: int
    vocabulary: "Vocabulary | None" = None
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def network(self) -> IMGNetwork:
        """The network with these weights, in evaluation mode. Raises CheckpointError naming tensors that do not fit."""
        network = IMGNetwork(self.config)
        check_tensors(self.weights, network.state_dict(), "checkpoint")
        network.load_state_dict(self.weights)
        return network.eval()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write atomically: a killed save leaves the old file whole."""
        path = Path(path)
        vocabulary = None
        if self.vocabulary is not None:
            vocabulary = {
                "words": list(self.vocabulary.words),
                "chars": list(self.vocabulary.chars),
                "vectors": torch.from_numpy(self.vocabulary.vectors.copy()),
            }
        content = {
            "format": FORMAT,
            "schema": SCHEMA,
            "config": self.config.as_dict(),
            "weights": {name: tensor.detach().cpu() for name, tensor in self.weights.items()},
            "features": self.features,
            "noise_seed": self.noise_seed,
            "vocabulary": vocabulary,
            "provenance": self.provenance,
            "metrics": self.metrics,
        }
        if path.exists() and not path.is_file():  # a device would be replaced
            raise CheckpointError(f"{path}: is not a regular file; give another path")
        path = Path(os.path.realpath(path))  # a link stays a link
        packed = io.BytesIO()  # PyTorch's own errors of a full disk are no OSError
        torch.save(content, packed)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as stream:
                stream.write(packed.getbuffer())
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot write the checkpoint ({error.strerror}); give another path"
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Read ``best.pt`` with ``weights_only=True``.

        Raises:
            CheckpointError: missing, damaged, newer, or not a checkpoint of this program.
        """
        content = load_tensors(path)
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: got a file without the {FORMAT} mark, expected a checkpoint of this program; "
                "a run of the paper's code becomes one with `img-deploy import`"
            )
        schema = content.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise CheckpointError(f"{path}: got checkpoint schema {schema!r}, this program reads {SCHEMA}; update it")
        return cls._from_content(content, Path(path))

    @classmethod
    def _from_content(cls, content: dict[str, Any], path: Path) -> "Checkpoint":
        from img_deploy.text.vocabulary import Vocabulary

        try:
            _check_types(content)
            stored = content["vocabulary"]
            vocabulary = None
            if stored is not None:
                vocabulary = Vocabulary(stored["words"], stored["vectors"].detach().numpy(), stored["chars"])
            return cls(
                config=ModelConfig.from_dict(content["config"]),
                weights=content["weights"],
                features=content["features"],
                noise_seed=content["noise_seed"],
                vocabulary=vocabulary,
                provenance=content["provenance"],
                metrics=content["metrics"],
            )
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: damaged checkpoint, {type(error).__name__} at {error}") from None


def _check_types(content: dict[str, Any]) -> None:
    """Raise TypeError or ValueError unless the parts are of their types, and plain values such as JSON takes."""
    for name, value in content["weights"].items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            raise TypeError(f"weight {name}: no tensor with plain data")
        if not value.is_floating_point():
            raise TypeError(f"weight {name}: {value.dtype}")
    for stream in {"video", "audio", *content["features"]}:
        kind = content["features"][stream]
        if type(kind["name"]) is not str or type(kind["width"]) is not int:
            raise TypeError(f"features of {stream}")
    if type(content["noise_seed"]) is not int:
        raise TypeError("noise_seed")
    for name in ("provenance", "metrics"):
        if not isinstance(content[name], dict) or not all(isinstance(key, str) for key in content[name]):
            raise TypeError(name)
        json.dumps(content[name])  # as a bundle's manifest will hold it


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file of tensors and plain values, never running what it holds. Raises CheckpointError."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: got a folder, expected a checkpoint file")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: got a pipe or a device, expected a checkpoint file")
    start = b""
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
        with warnings.catch_warnings(action="ignore"):  # of the pickle's dialect
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, expected a checkpoint") from None
    except PermissionError:
        raise CheckpointError(f"{path}: no permission to read it; change its mode or its owner") from None
    except Exception as error:  # garbled files fail in a dozen ways
        raise CheckpointError(f"{path}: got {_found(start, error)}, expected a PyTorch checkpoint") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: got a {type(content).__name__}, expected a dictionary of tensors")
    return content


_START = 64
"""Bytes that a file is told by."""


def _found(start: bytes, error: Exception) -> str:
    """What a file that does not load is, in words; PyTorch's own advise to switch its protection off."""
    if not start:
        return "an empty file (0 bytes)"
    if (name := re.search(r"GLOBAL ([\w.]+)", str(error))) and isinstance(error, pickle.UnpicklingError):
        return f"a file with objects other than tensors ({name[1]}; nothing in it was run)"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"a text file (it starts with {start[:8].decode('ascii')!r})"
    return "a damaged or foreign file"


def check_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor], where: str) -> None:
    """Raise CheckpointError naming missing, extra and misshapen tensors (all of them, the first ten of each)."""
    problems = [f"missing tensor {name}" for name in wanted if name not in found]
    problems += [f"unknown tensor {name}" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{where}: " + "; ".join(problems[:10]) + more)
