"""The configuration of a training run: defaults, then a YAML file, then options of the command line."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from img_deploy.errors import ConfigError
from img_deploy.training.tasks import FEATURES, TASKS

CONFIG_FILE = "config.yaml"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_TEMPERATURES = {"activitynet": (2.0, 0.1)}  # γ and ε; every other task has those of Charades


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Raises ConfigError naming every problem at once.

    The defaults are the published settings (paper section 4.1).
    """

    task: str
    """charades, charadesAM or activitynet."""
    features: str
    """i3d, clip+sf or iv2."""
    data: str
    """Folder with dataset/ and features/."""
    variant: str = "auto"
    """glove (sentences), tokens (precomputed token features), or auto: tokens where they go with the features and
    are there, else glove."""
    glove: str | None = None
    """GloVe text file; default: the one in features/."""
    cache: str | None = None
    """Folder that keeps down-sampled features; default: .img-deploy in the data folder."""
    max_clips: int | None = None
    """Longest video in clips; default: 128, for iv2 64."""
    video_width: int | None = None
    """Width of visual features that are not of the kind's own width; likewise audio_width."""
    audio_width: int | None = None

    dim: int = 128
    """Hidden size D."""
    heads: int = 8
    slots: int = 3
    slot_iterations: int = 3
    gru_layers: int = 3
    char_dim: int = 50
    dropout: float = 0.2
    use_importance: bool = True
    """False: both streams weigh the same throughout, and there is no importance loss (ablation)."""
    use_local: bool = True
    """False: no local fusion (ablation); likewise the next two."""
    use_event: bool = True
    use_global: bool = True
    use_distillation: bool = True
    """False: the single-modality heads do not learn from the fused one (ablation)."""

    gamma: float | None = None
    """Temperature of the importance label; default: 3, for activitynet 2."""
    epsilon: float | None = None
    """Importance labels up to this are 0; default: 0.2, for activitynet 0.1."""
    distill_temperature: float = 2.0
    margin: float = 0.2
    saliency_weight: float = 0.5
    distill_weight: float = 10.0
    importance_weight: float = 5.0
    distill_warm_up: int = 20
    """Epochs over which distillation gains its weight; 0 for none."""
    fusion_warm_up: int = 10
    """Epochs over which importance gains its weight in the fusion; 0 for none."""

    epochs: int = 100
    steps: int | None = None
    """Length of the run in steps, instead of epochs."""
    batch_size: int = 16
    """Queries per step, over all devices together."""
    learning_rate: float = 5e-4
    """At the first step; falls linearly to 0 at the last."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    noise_seed: int = 0
    """Seed of the slot noise that is part of the trained model."""

    select_on: str = "validation"
    """What the best checkpoint is chosen by: validation (videos held out of training), test (the published
    protocol), or val_2 (activitynet: the second annotation of the test videos)."""
    validation_share: float = 0.1
    """Share of the training videos that is held out."""
    evaluations: int = 2
    """Per epoch."""
    evaluation_batch: int = 64
    keep_last: int = 3
    """How many of the latest evaluated checkpoints are kept."""
    save_every: int = 200
    """Steps between two states to resume from."""
    log_every: int = 20
    """Steps between two rows of the TensorBoard log."""

    precision: str = "32-true"
    """32-true, bf16-mixed or 16-mixed."""
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    """Of Lightning, for several devices: ddp and its kin, where every device holds the whole network."""
    workers: int = 0
    """Processes that load batches; 0 loads them in the training process."""
    threads: int | None = None
    """CPU threads; default: PyTorch's."""

    def __post_init__(self) -> None:
        problems = [*self._type_problems()]
        if not problems:
            problems = [*self._choice_problems(), *self._number_problems()]
        if problems:
            raise ConfigError("training configuration: " + "; ".join(problems))

    @property
    def label_temperature(self) -> float:
        """γ of the task."""
        return self.gamma if self.gamma is not None else _TEMPERATURES.get(self.task, (3.0, 0.2))[0]

    @property
    def label_threshold(self) -> float:
        """ε of the task."""
        return self.epsilon if self.epsilon is not None else _TEMPERATURES.get(self.task, (3.0, 0.2))[1]

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else Path(self.data) / ".img-deploy"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write as YAML, atomically."""
        import yaml

        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(yaml.safe_dump(self.as_dict(), sort_keys=False), "utf-8")
        temporary.replace(path)

    def _type_problems(self) -> list[str]:
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = field.type.__name__ if isinstance(field.type, type) else str(field.type)
            if value is None and "None" in wanted:
                continue
            types: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}
            kinds = types[wanted.split(" ")[0]]
            if not isinstance(value, kinds) or (isinstance(value, bool) and not wanted.startswith("bool")):
                problems.append(f"{field.name} is {value!r}, expected {wanted.split(' ')[0]}")
        return problems

    def _choice_problems(self) -> list[str]:
        choices = {
            "task": TASKS,
            "features": FEATURES,
            "variant": ("auto", "glove", "tokens"),
            "select_on": ("validation", "test", "val_2"),
            "precision": PRECISIONS,
        }
        problems = [
            f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]
        if self.task == "activitynet" and self.features in FEATURES and self.features != "i3d":
            problems.append(f"features of activitynet are {self.features!r}, expected i3d")
        if self.select_on == "val_2" and self.task != "activitynet":
            problems.append(f"select_on is 'val_2', which {self.task} does not have")
        return problems

    def _number_problems(self) -> list[str]:
        problems = []
        sizes = ("dim", "heads", "slots", "slot_iterations", "gru_layers", "char_dim", "epochs", "batch_size")
        counts = ("evaluations", "evaluation_batch", "keep_last", "save_every", "log_every", "devices", "nodes")
        for name in (*sizes, *counts, "steps", "threads", "max_clips", "video_width", "audio_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}, expected at least 1")
        for name in ("seed", "noise_seed", "workers", "distill_warm_up", "fusion_warm_up", "weight_decay", "margin"):
            if getattr(self, name) < 0:
                problems.append(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("saliency_weight", "distill_weight", "importance_weight"):
            if not getattr(self, name) >= 0:
                problems.append(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("learning_rate", "clip_norm", "distill_temperature", "label_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                problems.append(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        if not 0 <= self.label_threshold < 0.5:
            problems.append(f"epsilon is {self.label_threshold}, expected 0 <= epsilon < 0.5")
        if not 0 < self.validation_share < 1:
            problems.append(f"validation_share is {self.validation_share}, expected a part of the videos")
        if self.heads > 0 and self.dim % self.heads:
            problems.append(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.dim % 2:
            problems.append(f"dim {self.dim} is odd")
        if self.batch_size % (max(self.devices, 1) * max(self.nodes, 1)):
            problems.append(f"batch_size {self.batch_size} cannot be shared by {self.devices * self.nodes} devices")
        return problems


def read_config(file: Path | None, options: Mapping[str, Any]) -> TrainConfig:
    """Defaults < YAML file < options (those that are not None).

    Raises:
        ConfigError: the file cannot be read, keys are unknown or missing, or values are wrong; all in one message.
    """
    values = {} if file is None else _read_yaml(file)
    values |= {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in fields(TrainConfig)}
    problems = [f"{name} is not a setting" for name in sorted(set(map(str, values)) - known)]
    required = [field.name for field in fields(TrainConfig) if field.default is MISSING]
    problems += [f"{name} is missing" for name in required if name not in values]
    stand_in = {"task": "charades", "features": "i3d", "data": "."}
    usable = {name: value for name, value in values.items() if name in known}
    try:
        config = TrainConfig(**{**stand_in, **usable})
    except ConfigError as error:
        problems.append(str(error).partition(": ")[2])
    if problems:
        where = f"{file}: " if file else ""
        raise ConfigError(f"{where}training configuration: {'; '.join(problems)}")
    return config


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a YAML file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not YAML ({str(error).splitlines()[0]})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: got {type(content).__name__}, expected 'setting: value' lines")
    return content
