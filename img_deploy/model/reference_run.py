"""A run of the paper's code (``IMG_<step>.t7``, ``configs.json``, pickled vocabulary) as one checkpoint."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from img_deploy.errors import CheckpointError, ConfigError
from img_deploy.features.kinds import Stream, kind_named, kind_of_width
from img_deploy.model.checkpoint import FORMAT, Checkpoint, load_tensors
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork
from img_deploy.model.reference_names import Recipe, recipes
from img_deploy.model.reference_vocabulary import read_vocabulary

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
    try:
        config = config_of(tensors, settings, weights_path)
    except ConfigError as error:
        raise ConfigError(f"{weights_path} and its configs.json: {error}") from None
    weights, noise = convert(tensors, config, weights_path), IMGNetwork(config)
    noise.draw_slot_noise(options.noise_seed)
    weights["fusion.event.slot_attention.noise"] = noise.state_dict()["fusion.event.slot_attention.noise"].clone()
    vocabulary = None
    if config.variant == "glove":
        vocabulary = read_vocabulary(dataset, tensors, weights_path)
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
    for pattern in ("IMG_*.t7", "*.t7", "*.pt", "*.pth", "*.bin"):
        if found := sorted(run.glob(pattern), key=_step):
            return found[-1]
    listing = ", ".join(sorted(item.name for item in run.iterdir())[:5]) or "nothing"
    raise CheckpointError(f"{run}: found {listing}; expected IMG_<step>.t7 (or another state_dict file)")


def _step(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _state_dict(path: Path) -> dict[str, Tensor]:
    content: Any = load_tensors(path)
    if content.get("format") == FORMAT:
        raise CheckpointError(f"{path}: is a checkpoint of this program already; go on with `img-deploy export --ckpt`")
    for name in WRAPPERS:
        if isinstance(content.get(name), dict):
            content = content[name]
    tensors = {
        name.removeprefix("module."): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
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
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); fix it or move it away") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); fix it or move it away") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: got a {type(settings).__name__}, expected an object of options")
    return settings


def config_of(tensors: dict[str, Tensor], settings: dict[str, Any], path: Path) -> ModelConfig:
    """Sizes from the tensors; heads, slots and slot iterations, which no tensor tells, from the settings."""

    def shape(name: str, axes: int = 2) -> torch.Size:
        if name not in tensors:
            raise CheckpointError(f"{path}: missing tensor {name}")
        found = tensors[name].shape
        if len(found) != axes:
            raise CheckpointError(f"{path}: misshapen tensor {name} {tuple(found)}, expected {axes} axes")
        return found

    def setting(name: str) -> int:
        value = settings.get(name, DEFAULTS[name])
        if type(value) is not int:
            raise CheckpointError(f"configs.json: {name} is {value!r}, expected a whole number")
        return value

    glove = "word_embeddingv.linear.conv1d.weight" in tensors
    dim, video_dim, _ = shape("video_affine.linear.conv1d.weight", 3)
    chars, char_dim = shape("word_embeddingv.char_emb.char_emb.weight") if glove else (0, 50)
    text = shape("word_embeddingv.word_emb.unk_vec") if glove else shape("text_affinev.linear.conv1d.weight", 3)
    return ModelConfig(
        variant="glove" if glove else "tokens",
        video_dim=video_dim,
        audio_dim=shape("audio_affine.linear.conv1d.weight", 3)[1],
        text_dim=text[1],
        chars=chars,
        char_dim=char_dim,
        dim=dim,
        heads=setting("num_heads"),
        max_clips=shape("predictor_av.encoder.pos_embedding.position_embeddings.weight")[0],
        slots=setting("event_num"),
        slot_iterations=setting("slot_layers"),
        gru_layers=sum(f"down_sample.rnn1.weight_ih_l{layer}" in tensors for layer in range(64)),
        dropout=settings.get("drop_rate", 0.2),
    )


def convert(tensors: dict[str, Tensor], config: ModelConfig, path: Path) -> dict[str, Tensor]:
    """Our weights from theirs. Raises CheckpointError naming every missing, extra and misshapen tensor of theirs."""
    if foreign := [f"{name} is {_kind(value)}" for name, value in tensors.items() if _kind(value) != "numbers"]:
        raise CheckpointError(f"{path}: {'; '.join(foreign[:8])}, expected dense floating point numbers")
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


def _kind(tensor: Tensor) -> str:
    """``numbers``, or what else a tensor holds that is no weight."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        return "a tensor without plain data"
    return "numbers" if tensor.dtype.is_floating_point else str(tensor.dtype).removeprefix("torch.")


def _combined(rule: Recipe, tensors: dict[str, Tensor], wanted: Tensor) -> Tensor:
    value = rule.combine([tensors[name].float() for name in rule.sources]).contiguous().clone()
    if value.shape != wanted.shape:
        raise ValueError
    return value


def _kinds(config: ModelConfig, options: ImportOptions) -> dict[str, dict[str, Any]]:
    stated: dict[Stream, tuple[str | None, int]] = {
        "video": (options.video_kind, config.video_dim),
        "audio": (options.audio_kind, config.audio_dim),
    }
    if config.variant == "tokens":
        stated["text"] = (options.text_kind, config.text_dim)
    kinds = {
        stream: kind_named(name, width) if name else kind_of_width(stream, width)
        for stream, (name, width) in stated.items()
    }
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
