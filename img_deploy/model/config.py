"""The network's configuration: every size that a tensor's shape depends on, and the switches of the ablations."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from img_deploy.errors import ConfigError

Variant = Literal["glove", "tokens"]

_SIZES = {
    **dict.fromkeys(("video_dim", "audio_dim", "text_dim"), (1, 1 << 16)),
    **{"chars": (0, 1 << 20), "char_dim": (1, 1 << 10), "dim": (1, 1 << 11), "heads": (1, 1 << 11)},
    **{"max_clips": (1, 1 << 14), "slots": (1, 1 << 10), "slot_iterations": (1, 1 << 10), "gru_layers": (1, 1 << 4)},
}
"""Least and most of each size: far beyond any use, but short of what a damaged file would take memory for."""


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
        for name, (least, most) in _SIZES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                problems.append(f"{name} is {value!r}, expected a whole number from {least} to {most}")
        for switch in ("use_importance", "use_local", "use_event", "use_global"):
            if type(getattr(self, switch)) is not bool:
                problems.append(f"{switch} is {getattr(self, switch)!r}, expected true or false")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout!r}, expected 0 <= dropout < 1")
        if type(self.dim) is type(self.heads) is int and self.heads > 0 and self.dim % self.heads:
            problems.append(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if type(self.dim) is int and self.dim % 2:
            problems.append(f"dim {self.dim} is odd; the two GRU directions need half of it each")
        if self.variant == "glove" and self.chars in (0, 1):
            problems.append(f"chars is {self.chars}, expected at least 2 (pad and unknown)")
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
