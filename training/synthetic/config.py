"""What is generated: sizes, shares and the strength of the signal."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from img_deploy.training.settings import Count, Natural, NotNegative, Part, Settings, Share
from img_deploy.training.synthetic.grammar import LOOK_ALIKE_PAIRS, OTHER_ACTIONS, SILENT_ACTIONS

CharadesKind = Literal["i3d", "clip+sf", "iv2"]
Kind = Literal["i3d", "clip+sf", "iv2", "activitynet"]
CHARADES_KINDS: tuple[CharadesKind, ...] = get_args(CharadesKind)
KINDS: tuple[Kind, ...] = get_args(Kind)


class SyntheticConfig(Settings):
    """A synthetic dataset."""

    title: ClassVar[str] = "synthetic data"

    kinds: tuple[Kind, ...] = ("i3d",)
    """Feature kinds to write: i3d, clip+sf, iv2 (all three on the same Charades-like videos), activitynet."""
    videos: Annotated[int, Field(ge=8)] = 480
    """Videos of each task, training and test together."""
    seed: Natural = 0
    """The same seed writes the same bytes."""
    test_share: Part = 1 / 6
    """Share of the videos that is held out as the test set."""
    min_clips: Count = 24
    max_clips: Count = 40
    min_moment: Count = 3
    """Shortest and longest moment, in clips; short ones are more frequent."""
    max_moment: Count = 12
    moments: Annotated[int, Field(ge=3)] = 4
    """Actions per video, each asked for by one query."""
    # Annotations are in tenths of a second; shorter clips would not survive the rounding.
    min_clip_seconds: Annotated[float, Field(ge=0.3)] = 0.8
    """One length of a clip is drawn per video."""
    max_clip_seconds: float = 1.2
    look_alike_pairs: Annotated[int, Field(ge=1, le=len(LOOK_ALIKE_PAIRS))] = 4
    """Pairs of actions of one look and two sounds."""
    silent: Annotated[int, Field(ge=0, le=len(SILENT_ACTIONS))] = 8
    """Actions of their own look and no sound."""
    other: Annotated[int, Field(ge=0, le=len(OTHER_ACTIONS))] = 8
    """Actions of their own look and sound."""
    signal: NotNegative = 1.2
    """Length of a prototype per coordinate, over noise of length 1."""
    pair_share: Share = 2 / 3
    """Share of the videos with real sound that hold both actions of a look-alike pair."""
    noise_share: Share = 0.1
    """Share of the videos whose audio is noise throughout."""
    no_audio_share: Share = 0.05
    """Share of the videos without an audio file."""
    video_width: Count | None = None
    """Width of the visual features, for sets smaller than real ones (i3d alone). Default: the kind's own."""
    audio_width: Count | None = None
    """Likewise of the audio features."""

    @classmethod
    def small(cls, **changes: Any) -> "SyntheticConfig":
        """720 queries on 240 videos of 16 to 24 clips and 10 actions, real widths: learnt within some 700 steps."""
        smaller = {"videos": 240, "moments": 3, "min_clips": 16, "max_clips": 24, "max_moment": 8}
        return cls(**{**smaller, "look_alike_pairs": 2, "silent": 3, "other": 3, **changes})

    @property
    def actions(self) -> int:
        return 2 * self.look_alike_pairs + self.silent + self.other

    @field_validator("kinds", mode="before")
    @classmethod
    def _list_or_one_name(cls, kinds: Any) -> Any:
        return (kinds,) if isinstance(kinds, str) else tuple(kinds)

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not kinds or len(set(kinds)) != len(kinds):
            raise ValueError("expected at least one, each once")
        return kinds

    # A check of several fields belongs to the last of them: those before it are in info.data, if they are right.

    @field_validator("max_clips", "max_moment", "max_clip_seconds")
    @classmethod
    def _not_below_the_least(cls, most: float, info: ValidationInfo) -> float:
        name = str(info.field_name).replace("max", "min")
        if info.data.get(name, most) > most:
            raise ValueError(f"{name} is {info.data[name]}, above it")
        return most

    @field_validator("moments")
    @classmethod
    def _fit_the_shortest_video(cls, moments: int, info: ValidationInfo) -> int:
        needed = moments * info.data.get("min_moment", 1) + moments - 1
        if needed > info.data.get("min_clips", needed):
            raise ValueError(f"moments and the gaps between them need {needed} clips of min_clips")
        return moments

    @field_validator("other")
    @classmethod
    def _enough_actions(cls, other: int, info: ValidationInfo) -> int:
        moments = info.data.get("moments", 0)
        if info.data.get("silent", moments) + other < moments:
            raise ValueError(f"{moments} different actions per video need as many silent and other ones")
        return other

    @field_validator("no_audio_share")
    @classmethod
    def _leave_room(cls, share: float, info: ValidationInfo) -> float:
        if info.data.get("noise_share", 0) + share > 1:
            raise ValueError("noise_share and no_audio_share add up to more than 1")
        return share

    @field_validator("video_width", "audio_width")
    @classmethod
    def _of_i3d_alone(cls, width: int | None, info: ValidationInfo) -> int | None:
        if width is not None and info.data.get("kinds", ("i3d",)) != ("i3d",):
            raise ValueError("only i3d alone takes another width")
        return width
