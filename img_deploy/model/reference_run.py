"""A run of the paper's code (``IMG_<step>.t7``, ``configs.json``, pickled vocabulary) as one checkpoint."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from img_deploy.errors import CheckpointError
from img_deploy.features.kinds import FeatureKind, audio_kind, kind_named, text_kind, video_kind
from img_deploy.features.safe_pickle import load_plain
from img_deploy.model.checkpoint import Checkpoint, load_tensors
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork
from img_deploy.model.reference_names import Recipe, recipes

if TYPE_CHECKING:
    from img_deploy.text.vocabulary import Vocabulary

DEFAULTS = {"num_heads": 8, "event_num": 3, "slot_layers": 3}
"""What the reference uses where its ``configs.json`` does not say; no tensor tells these."""

WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass
class ImportOptions:
    """What a run cannot tell by itself; None means: read it off the widths."""

    noise_seed: int = 0
    video_kind: str | None = None
    audio_kind: str | None = None
    text_kind: str | None = None


@dataclass
class ImportedRun:
    """The checkpoint, and remarks on stale configuration keys, one line each."""

    checkpoint: Checkpoint
    remarks: list[str] = field(default_factory=list)


def import_run(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str] | None = None,
    options: ImportOptions | None = None,
) -> ImportedRun:
    """Read a run and check every tensor of it.

    Args:
        run: the run's folder, or one state-dict file beside its ``configs.json``.
        dataset: the pickled dataset with the vocabulary; needed by the GloVe variant.
        options: see :class:`ImportOptions`.

    Raises:
        CheckpointError: no weights, a tensor missing, extra or misshapen, or a vocabulary that does not fit.
    """
    options = options or ImportOptions()
    weights_path = find_weights(Path(run))
    tensors = _state_dict(weights_path)
    settings = _settings(weights_path.parent / "configs.json")
    config = config_of(tensors, settings, weights_path)
    weights, noise = convert(tensors, config, weights_path), IMGNetwork(config)
    noise.draw_slot_noise(options.noise_seed)
    weights["fusion.event.slot_attention.noise"] = noise.state_dict()["fusion.event.slot_attention.noise"].clone()
    vocabulary = None
    if config.variant == "glove":
        vocabulary = _vocabulary(dataset, tensors, weights_path)
    checkpoint = Checkpoint(
        config=config,
        weights=weights,
        features=_kinds(config, options),
        noise_seed=options.noise_seed,
        vocabulary=vocabulary,
        provenance={
            "imported_from": weights_path.name,
            "task": str(settings.get("task", "")),
            "settings": {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool)},
        },
    )
    return ImportedRun(checkpoint, _stale(settings, config, tensors))


def find_weights(run: Path) -> Path:
    """The weights of a run: the file itself, or ``IMG_<step>.t7`` of the highest step in the folder."""
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such file or folder, expected a run with IMG_<step>.t7 and configs.json")
    for pattern in ("*.t7", "*.pt", "*.pth", "*.bin"):
        if found := sorted(run.glob(pattern), key=_step):
            return found[-1]
    listing = ", ".join(sorted(item.name for item in run.iterdir())[:5]) or "nothing"
    raise CheckpointError(f"{run}: found {listing}; expected IMG_<step>.t7 (or another state_dict file)")


def _step(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _state_dict(path: Path) -> dict[str, Tensor]:
    content: Any = load_tensors(path)
    for name in WRAPPERS:
        if isinstance(content.get(name), dict):
            content = content[name]
    tensors = {
        name.removeprefix("module."): value for name, value in content.items() if isinstance(value, torch.Tensor)
    }
    if "video_affine.linear.conv1d.weight" not in tensors:
        some = ", ".join(list(map(str, content))[:3]) or "nothing"
        raise CheckpointError(
            f"{path}: missing tensor video_affine.linear.conv1d.weight, found {some}; expected an IMG state_dict"
        )
    return tensors


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); fix it or move it away") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: got a {type(settings).__name__}, expected an object of options")
    return settings


def config_of(tensors: dict[str, Tensor], settings: dict[str, Any], path: Path) -> ModelConfig:
    """Sizes from the tensors; heads, slots and slot iterations, which no tensor tells, from the settings."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise CheckpointError(f"{path}: missing tensor {name}")
        return tensors[name].shape

    def setting(name: str) -> int:
        value = settings.get(name, DEFAULTS[name])
        if not isinstance(value, int):
            raise CheckpointError(f"configs.json: {name} is {value!r}, expected a whole number")
        return value

    glove = "word_embeddingv.linear.conv1d.weight" in tensors
    dim, video_dim = shape("video_affine.linear.conv1d.weight")[:2]
    chars, char_dim = shape("word_embeddingv.char_emb.char_emb.weight") if glove else (0, 50)
    text = shape("word_embeddingv.word_emb.unk_vec" if glove else "text_affinev.linear.conv1d.weight")
    return ModelConfig(
        variant="glove" if glove else "tokens",
        video_dim=video_dim,
        audio_dim=shape("audio_affine.linear.conv1d.weight")[1],
        text_dim=text[1],
        chars=chars,
        char_dim=char_dim,
        dim=dim,
        heads=setting("num_heads"),
        max_clips=shape("predictor_av.encoder.pos_embedding.position_embeddings.weight")[0],
        slots=setting("event_num"),
        slot_iterations=setting("slot_layers"),
        gru_layers=sum(f"down_sample.rnn1.weight_ih_l{layer}" in tensors for layer in range(64)),
        dropout=float(settings.get("drop_rate", 0.2)),
    )


def convert(tensors: dict[str, Tensor], config: ModelConfig, path: Path) -> dict[str, Tensor]:
    """Our weights from theirs. Raises CheckpointError naming every missing, extra and misshapen tensor of theirs."""
    rules = recipes(config)
    used = {source for rule in rules for source in rule.sources}
    used |= {f"word_embedding{m}.word_emb.{name}" for m in "va" for name in ("pad_vec", "glove_vec")}
    problems = [f"missing tensor {name}" for rule in rules for name in rule.sources if name not in tensors]
    problems += [f"unknown tensor {name}" for name in tensors if name not in used]
    wanted = IMGNetwork(config).state_dict()
    weights = {}
    for rule in rules:
        if all(name in tensors for name in rule.sources):
            try:
                weights[rule.target] = _combined(rule, tensors, wanted[rule.target])
            except (RuntimeError, IndexError, ValueError):
                shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in rule.sources)
                problems.append(f"misshapen tensors: {shapes} do not make {tuple(wanted[rule.target].shape)}")
    problems += [f"{name} holds NaN or Inf" for name in used & tensors.keys() if not tensors[name].isfinite().all()]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"{path}: " + "; ".join(problems[:8]) + more)
    return weights


def _combined(rule: Recipe, tensors: dict[str, Tensor], wanted: Tensor) -> Tensor:
    value = rule.combine([tensors[name].float() for name in rule.sources]).contiguous().clone()
    if value.shape != wanted.shape:
        raise ValueError
    return value


def _vocabulary(dataset: str | os.PathLike[str] | None, tensors: dict[str, Tensor], path: Path) -> "Vocabulary":
    from img_deploy.text.vocabulary import Vocabulary

    if dataset is None:
        raise CheckpointError(
            f"{path}: this run embeds words, and its vocabulary is in a pickled dataset; "
            "pass --dataset datasets/<task>_<features>_<maxlen>.pkl"
        )
    content = load_plain(dataset)
    for key in ("word_dict", "char_dict", "word_vector"):
        if key not in content:
            raise CheckpointError(f"{dataset}: missing {key}, expected the reference's pickled dataset")
    words = _by_id(content["word_dict"], f"{dataset}: word_dict")
    chars = _by_id(content["char_dict"], f"{dataset}: char_dict")
    vectors = np.ascontiguousarray(content["word_vector"], dtype=np.float32)
    for m in "va":
        table = tensors.get(f"word_embedding{m}.word_emb.glove_vec")
        if table is None or tuple(table.shape) != vectors.shape:
            have = None if table is None else tuple(table.shape)
            raise CheckpointError(
                f"{dataset}: word_vector is {vectors.shape}, the run's word table {have}; wrong dataset"
            )
        if not np.allclose(table.numpy(), vectors, atol=1e-6):
            raise CheckpointError(f"{dataset}: word_vector differs from the run's word table; wrong dataset")
    if len(words) != len(vectors):
        raise CheckpointError(f"{dataset}: {len(words)} words but {len(vectors)} word vectors")
    expected = tensors["word_embeddingv.char_emb.char_emb.weight"].shape[0] - 2
    if len(chars) != expected:
        raise CheckpointError(f"{dataset}: {len(chars)} characters, the run's table has {expected}; wrong dataset")
    return Vocabulary(words, vectors, chars)


def _by_id(ids: Any, where: str) -> list[str]:
    """Names in the order of their ids, without pad (0) and unknown (1)."""
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
        raise CheckpointError(f"{where}: expected ids 0..n-1, each once")
    return [name for name, number in sorted(ids.items(), key=lambda item: item[1]) if number >= 2]


def _kinds(config: ModelConfig, options: ImportOptions) -> dict[str, dict[str, Any]]:
    def kind(stated: str | None, width: int, by_width: Any) -> FeatureKind:
        return kind_named(stated, width) if stated else by_width(width)

    kinds = {
        "video": kind(options.video_kind, config.video_dim, video_kind),
        "audio": kind(options.audio_kind, config.audio_dim, audio_kind),
    }
    if config.variant == "tokens":
        kinds["text"] = kind(options.text_kind, config.text_dim, text_kind)
    return {name: {"name": item.name, "width": item.width} for name, item in kinds.items()}


def _stale(settings: dict[str, Any], config: ModelConfig, tensors: dict[str, Tensor]) -> list[str]:
    """Settings that the tensors contradict; the tensors are right."""
    found = {
        "dim": config.dim,
        "max_pos_len": config.max_clips,
        "video_feature_dim": config.video_dim,
        "audio_feature_dim": config.audio_dim,
        "layers": config.gru_layers,
    }
    if config.variant == "glove":
        words = tensors["word_embeddingv.word_emb.glove_vec"].shape[0] + 2
        found |= {"char_size": config.chars, "char_dim": config.char_dim, "word_dim": config.text_dim}
        found |= {"word_size": words}
    else:
        found |= {"text_feature_dim": config.text_dim}
    return [
        f"configs.json says {name} {settings[name]}, the tensors say {value}: the tensors are used"
        for name, value in found.items()
        if name in settings and settings[name] != value
    ]
