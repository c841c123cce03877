"""The configuration of a training run: defaults, then a YAML file, then options of the command line."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from img_deploy.errors import ConfigError, one_line
from img_deploy.files import write_text
from img_deploy.hardware import MOST_THREADS
from img_deploy.training.constants import PUBLISHED, FeatureName, LossConfig, TaskName, wrong_features
from img_deploy.training.settings import Count, Natural, NotNegative, Part, Positive, Seed, Settings

CONFIG_FILE = "config.yaml"


class TrainConfig(Settings):
    """One training run. The defaults are the published settings (paper section 4.1)."""

    title: ClassVar[str] = "training configuration"

    task: TaskName
    """charades, charadesAM (Charades-AudioMatter) or activitynet."""
    features: FeatureName
    """i3d, clip+sf or iv2 (InternVideo2)."""
    data: str
    """Folder with dataset/ and features/."""
    variant: Literal["auto", "glove", "tokens"] = "auto"
    """glove (sentences), tokens (precomputed token features), or auto: tokens where they lie beside clip+sf or iv2,
    else glove."""
    glove: str | None = None
    """GloVe text file. Default: glove.840B.300d.txt in features/."""
    cache: str | None = None
    """Folder that keeps down-sampled features. Default: .img-deploy in DATA."""
    max_clips: Count | None = None
    """Longest video in clips. Default: 128, for iv2 64."""
    video_width: Count | None = None
    """Width of visual features that are not of the kind's own width; likewise audio_width."""
    audio_width: Count | None = None

    dim: int = Field(128, ge=1, multiple_of=2)
    """Hidden size D."""
    heads: Count = 8
    slots: Count = 3
    slot_iterations: Count = 3
    gru_layers: Count = 3
    char_dim: Count = 50
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    use_importance: bool = True
    """False: both streams weigh the same throughout, and there is no importance loss (ablation)."""
    use_local: bool = True
    """False: no local fusion (ablation); likewise the next two."""
    use_event: bool = True
    use_global: bool = True
    use_distillation: bool = True
    """False: the single-modality heads do not learn from the fused one (ablation)."""

    gamma: Positive | None = None
    """Temperature of the importance label. Default: the task's published one."""
    epsilon: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Importance labels up to this are 0. Default: the task's published one."""
    distill_temperature: Positive = LossConfig.temperature
    margin: NotNegative = LossConfig.margin
    saliency_weight: NotNegative = LossConfig.saliency_weight
    distill_weight: NotNegative = LossConfig.distill_weight
    importance_weight: NotNegative = LossConfig.importance_weight
    distill_warm_up: Natural = 20
    """Epochs over which distillation gains its weight; 0 for none."""
    fusion_warm_up: Natural = 10
    """Epochs over which importance gains its weight in the fusion; 0 for none."""

    epochs: Count = 100
    """Passes over the training queries."""
    steps: Count | None = None
    """Length of the run in steps, instead of epochs."""
    batch_size: Count = 16
    """Queries per step, over all devices together."""
    learning_rate: Positive = 5e-4
    """At the first step; falls linearly to 0 at the last."""
    weight_decay: NotNegative = 0.01
    clip_norm: Positive = 1.0
    seed: Seed = 0
    """Seed of everything that is drawn."""
    noise_seed: Seed = 0
    """Seed of the slot noise that is part of the trained model."""

    select_on: Literal["validation", "test", "val_2"] = "validation"
    """What the best checkpoint is chosen by: validation (videos held out of training), test (the published
    protocol), or val_2 (activitynet: the second annotation of the test videos)."""
    validation_share: Part = 0.1
    """Share of the training videos that is held out."""
    evaluations: Count = 2
    """Per epoch."""
    evaluation_batch: Count = 64
    keep_last: Count = 3
    """How many of the latest evaluated checkpoints are kept."""
    save_every: Count = 200
    """Steps between two states to resume from."""
    log_every: Count = 20
    """Steps between two rows of the TensorBoard log."""

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of the network: 32-true, bf16-mixed or 16-mixed."""
    accelerator: str = "auto"
    """cpu, gpu or auto."""
    devices: Count = 1
    """Devices per machine."""
    nodes: Count = 1
    """Machines."""
    strategy: str = "auto"
    """Of Lightning, for several devices: ddp and its kin, where every device holds the whole network."""
    workers: Natural = 0
    """Processes that load batches; 0 loads them in the training process."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
    """CPU threads. Default: PyTorch's."""

    # A check of several fields belongs to the last of them: those before it are in info.data, if they are right.

    @field_validator("features")
    @classmethod
    def _of_the_task(cls, features: str, info: ValidationInfo) -> str:
        if problem := wrong_features(info.data.get("task"), features):
            raise ValueError(problem)
        return features

    @field_validator("heads")
    @classmethod
    def _divide_dim(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("dim", 0) % heads:
            raise ValueError(f"dim {info.data['dim']} is not a multiple of heads {heads}")
        return heads

    @field_validator("select_on")
    @classmethod
    def _exists(cls, select_on: str, info: ValidationInfo) -> str:
        if select_on == "val_2" and info.data.get("task", "activitynet") != "activitynet":
            raise ValueError(f"{info.data['task']} has no val_2")
        return select_on

    @field_validator("nodes")
    @classmethod
    def _share_the_batch(cls, nodes: int, info: ValidationInfo) -> int:
        size, devices = info.data.get("batch_size", 0), info.data.get("devices", 1) * nodes
        if size % devices:
            raise ValueError(f"batch_size {size} cannot be shared by {devices} devices")
        return nodes

    @property
    def label_temperature(self) -> float:
        """γ of the task."""
        return self.gamma if self.gamma is not None else PUBLISHED[self.task].gamma

    @property
    def label_threshold(self) -> float:
        """ε of the task."""
        return self.epsilon if self.epsilon is not None else PUBLISHED[self.task].epsilon

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else Path(self.data) / ".img-deploy"

    def save(self, path: Path) -> None:
        """Write as YAML, atomically, to be read from any working directory. Raises OSError."""
        import yaml

        write_text(path, yaml.safe_dump(with_whole_paths(self.model_dump()), sort_keys=False))


def with_whole_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose paths no longer count from the working directory."""
    given = {name: settings[name] for name in ("data", "glove", "cache") if isinstance(settings.get(name), str)}
    return settings | {name: os.path.abspath(path) for name, path in given.items()}


def read_config(file: Path | None, options: Mapping[str, Any]) -> TrainConfig:
    """Defaults < YAML file < options.

    Raises:
        ConfigError: the file cannot be read, keys are unknown or missing, or values are wrong; all in one message.
    """
    values = read_settings(file)
    try:
        return TrainConfig(**values | dict(options))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}" if file else str(error)) from None


def read_settings(file: Path | None) -> dict[str, Any]:
    """The settings that a YAML file states, unchecked; none without a file. Raises ConfigError."""
    if file is None:
        return {}
    try:
        content = parse_yaml(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a YAML file of settings") from None
    except ValueError as error:
        raise ConfigError(f"{file}: is not YAML ({one_line(error, 100)})") from None
    if not isinstance(content, dict | None):
        raise ConfigError(f"{file}: got {type(content).__name__}, expected 'setting: value' lines")
    return {str(name): value for name, value in (content or {}).items()}


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, in which 1e-3 is a number, as in YAML 1.2. Raises ValueError."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
