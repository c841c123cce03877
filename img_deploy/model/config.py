"""The network's configuration: every size that a tensor's shape depends on, and the switches of the ablations."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from img_deploy.errors import ConfigError

Variant = Literal["glove", "tokens"]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one IMG network. Raises ConfigError naming every problem at once.

    ``variant`` is ``glove`` (words and characters; the paper's IMGNet) or ``tokens`` (precomputed token
    features; IMGNet4VLM).
    """

    variant: Variant = "glove"
    video_dim: int = 1024
    """Width of a visual clip feature."""
    audio_dim: int = 2048
    """Width of an audio clip feature."""
    text_dim: int = 300
    """Width of a word vector (glove) or of a token feature (tokens)."""
    chars: int = 0
    """Size of the character table with pad and unknown; 0 in the token variant."""
    char_dim: int = 50
    dim: int = 128
    """Hidden size D."""
    heads: int = 8
    max_clips: int = 128
    """Longest video in clips: the length of the learned positional table."""
    slots: int = 3
    slot_iterations: int = 3
    gru_layers: int = 3
    dropout: float = 0.2
    use_importance: bool = True
    """False: the fusion weight is 0.5 throughout (ablation)."""
    use_local: bool = True
    """False: local fusion gives the plain gate of both streams (ablation); likewise the next two."""
    use_event: bool = True
    use_global: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.variant not in ("glove", "tokens"):
            problems.append(f"variant is {self.variant!r}, expected 'glove' or 'tokens'")
        for name in ("video_dim", "audio_dim", "text_dim", "dim", "heads", "max_clips"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("slots", "slot_iterations", "gru_layers"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.heads > 0 and self.dim % self.heads:
            problems.append(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.dim % 2:
            problems.append(f"dim {self.dim} is odd; the two GRU directions need half of it each")
        if self.variant == "glove" and self.chars < 2:
            problems.append(f"chars is {self.chars}, expected at least 2 (pad and unknown)")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        if problems:
            raise ConfigError("model configuration: " + "; ".join(problems))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of :meth:`as_dict`. Unknown keys raise ConfigError."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"model configuration: unknown keys {', '.join(unknown)}")
        return cls(**values)
