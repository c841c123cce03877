"""What is generated: sizes, shares and the strength of the signal."""

from dataclasses import dataclass
from typing import Any

from img_deploy.errors import ConfigError
from img_deploy.training.synthetic.grammar import LOOK_ALIKE_PAIRS, OTHER_ACTIONS, SILENT_ACTIONS

CHARADES_KINDS = ("i3d", "clip+sf", "iv2")
KINDS = (*CHARADES_KINDS, "activitynet")


@dataclass(frozen=True)
class SyntheticConfig:
    """A synthetic dataset. Raises ConfigError naming every problem at once."""

    kinds: tuple[str, ...] = ("i3d",)
    """Feature kinds to write: i3d, clip+sf, iv2 (all three on the same Charades-like videos), activitynet."""
    videos: int = 480
    """Videos of each task, training and test together."""
    seed: int = 0
    test_share: float = 1 / 6
    """Share of the videos that is held out as the test set."""
    moments: int = 4
    """Actions per video, each asked for by one query."""
    min_clips: int = 24
    max_clips: int = 40
    min_moment: int = 3
    """Shortest and longest moment, in clips; short ones are more frequent."""
    max_moment: int = 12
    min_clip_seconds: float = 0.8
    """One length of a clip is drawn per video."""
    max_clip_seconds: float = 1.2
    look_alike_pairs: int = 4
    """Pairs of actions of one look and two sounds."""
    silent: int = 8
    """Actions of their own look and no sound."""
    other: int = 8
    """Actions of their own look and sound."""
    signal: float = 1.2
    """Length of a prototype per coordinate, over noise of length 1."""
    pair_share: float = 2 / 3
    """Share of the videos with real sound that hold both actions of a look-alike pair."""
    noise_share: float = 0.1
    """Share of the videos whose audio is noise throughout."""
    no_audio_share: float = 0.05
    """Share of the videos without an audio file."""
    video_width: int | None = None
    """Width of the visual features, for sets smaller than real ones (kind i3d only); None is the kind's own."""
    audio_width: int | None = None
    """Likewise of the audio features."""

    def __post_init__(self) -> None:
        kinds = (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds)
        object.__setattr__(self, "kinds", kinds)  # a YAML or JSON list, or one name, is meant well
        problems = [*self._kind_problems(), *self._size_problems(), *self._action_problems(), *self._share_problems()]
        if problems:
            raise ConfigError("synthetic data: " + "; ".join(problems))

    @classmethod
    def small(cls, **changes: Any) -> "SyntheticConfig":
        """720 queries on 240 videos of 16 to 24 clips and 10 actions, real widths: learnt within some 700 steps."""
        smaller = {"videos": 240, "moments": 3, "min_clips": 16, "max_clips": 24, "max_moment": 8}
        return cls(**{**smaller, "look_alike_pairs": 2, "silent": 3, "other": 3, **changes})

    @property
    def actions(self) -> int:
        return 2 * self.look_alike_pairs + self.silent + self.other

    def _kind_problems(self) -> list[str]:
        problems = [f"kind is {kind!r}, expected one of {', '.join(KINDS)}" for kind in self.kinds if kind not in KINDS]
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            problems.append(f"kinds are {list(self.kinds)}, expected at least one, each once")
        if (self.video_width, self.audio_width) != (None, None) and self.kinds != ("i3d",):
            problems.append(f"kinds are {list(self.kinds)}, but only i3d alone takes another width")
        return problems

    def _size_problems(self) -> list[str]:
        problems = []
        at_least = {"videos": 8, "moments": 3, "min_moment": 1, "min_clips": 1, "video_width": 1, "audio_width": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append(f"{name} is {value}, expected at least {least}")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}, expected at least 0")
        for low, high in (("min_clips", "max_clips"), ("min_moment", "max_moment")):
            if getattr(self, low) > getattr(self, high):
                problems.append(f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}")
        needed = self.moments * self.min_moment + self.moments - 1
        if needed > self.min_clips:
            problems.append(
                f"{self.moments} moments of {self.min_moment} clips and gaps need {needed} clips of min_clips"
            )
        # Annotations are in tenths of a second; shorter clips would not survive the rounding.
        if not 0.3 <= self.min_clip_seconds <= self.max_clip_seconds:
            problems.append("clip seconds are not 0.3 <= min_clip_seconds <= max_clip_seconds")
        if not self.signal >= 0:
            problems.append(f"signal is {self.signal}, expected at least 0")
        return problems

    def _action_problems(self) -> list[str]:
        problems = []
        tables = {"look_alike_pairs": LOOK_ALIKE_PAIRS, "silent": SILENT_ACTIONS, "other": OTHER_ACTIONS}
        for name, table in tables.items():
            least = 1 if name == "look_alike_pairs" else 0
            if not least <= getattr(self, name) <= len(table):
                problems.append(f"{name} is {getattr(self, name)}, expected {least} to {len(table)}")
        if self.silent + self.other < self.moments:
            problems.append(f"{self.moments} different actions per video need as many silent and other ones")
        return problems

    def _share_problems(self) -> list[str]:
        problems = []
        for name in ("test_share", "pair_share", "noise_share", "no_audio_share"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if self.noise_share + self.no_audio_share > 1:
            problems.append("noise_share and no_audio_share add up to more than 1")
        if not 0 < self.test_share < 1:
            problems.append(f"test_share is {self.test_share}, expected a part of the videos")
        return problems
