"""What happens in each video: which actions, when, with what sound, and the sentences that ask for them."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

from img_deploy.training.synthetic.config import SyntheticConfig
from img_deploy.training.synthetic.grammar import Action, build_actions, sentence

Audio: TypeAlias = Literal["real", "noise", "none"]
Split: TypeAlias = Literal["train", "test"]
Task: TypeAlias = Literal["charades", "activitynet"]


@dataclass(frozen=True)
class Event:
    """One action in a video, on clips ``first`` to ``last`` inclusive."""

    action: Action
    first: int
    last: int
    query: str
    start: float
    """As annotated: seconds, in tenths; the end may lie past the video, as it does in the real files."""
    end: float
    sight: bool
    """Whether sight can tell it from the other actions of its video."""


@dataclass(frozen=True)
class Scene:
    """One video."""

    vid: str
    split: Split
    clips: int
    duration: float
    """Seconds, two decimals."""
    audio: Audio
    events: tuple[Event, ...]
    """In order of time."""


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for every purpose: what one part draws never moves another part's numbers."""
    return np.random.default_rng([seed, *(crc32(str(name).encode()) for name in names)])


def plan(config: SyntheticConfig, task: Task) -> list[Scene]:
    """All videos of a task, training first."""
    test = min(max(round(config.videos * config.test_share), 2), config.videos - 2)
    vids = _video_ids(config, task)
    actions = build_actions(config.look_alike_pairs, config.silent, config.other)
    scenes: list[Scene] = []
    counts: dict[Split, int] = {"train": config.videos - test, "test": test}
    for split, count in counts.items():
        sounds, paired = _assign_audio(config, count, stream(config.seed, task, split, "audio"))
        casts = _Casts(actions, config.moments, stream(config.seed, task, split, "casts"))
        for audio, pair in zip(sounds, paired, strict=True):
            vid = vids[len(scenes)]
            cast = casts.next(audio, pair)
            scenes.append(_scene(config, vid, split, audio, cast, stream(config.seed, task, vid, "scene")))
    return scenes


def _assign_audio(
    config: SyntheticConfig, videos: int, random: np.random.Generator
) -> tuple[list[Audio], npt.NDArray[np.bool_]]:
    """Kind of audio of each video, in exact shares, and which of the real ones hold a look-alike pair (1 at least)."""
    silent = min(round(videos * config.no_audio_share), videos - 1)
    noisy = min(round(videos * config.noise_share), videos - 1 - silent)
    counts: dict[Audio, int] = {"none": silent, "noise": noisy, "real": videos - silent - noisy}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    order = random.permutation(videos)
    paired = np.zeros(videos, dtype=bool)
    real = videos - silent - noisy
    paired[videos - max(1, round(real * config.pair_share)) :] = True
    return [kinds[k] for k in order], paired[order]


class _Deck:
    """Draws members in shuffled rounds, so that each comes up equally often, skipping those already held."""

    def __init__(self, members: Sequence[Action], random: np.random.Generator) -> None:
        self._members, self._random = members, random
        self._pile: list[Action] = []

    def draw(self, held: Sequence[Action]) -> Action:
        while True:
            for k, card in enumerate(self._pile):
                if card not in held:
                    return self._pile.pop(k)
            self._pile += [self._members[k] for k in self._random.permutation(len(self._members))]


class _Casts:
    """Chooses the actions of each video."""

    def __init__(self, actions: Sequence[Action], size: int, random: np.random.Generator) -> None:
        self._size, self._random = size, random
        groups = {name: [a for a in actions if a.category == name] for name in ("look_alike", "silent", "other")}
        self._twins = {a: b for a in groups["look_alike"] for b in groups["look_alike"] if a != b and a.look == b.look}
        self._decks = {name: _Deck(members, random) for name, members in groups.items()}
        self._room = {name: len(members) for name, members in groups.items()}
        self._turn = 0

    def next(self, audio: Audio, paired: bool) -> list[Action]:
        """Different actions in shuffled order.

        Where the audio is real, look-alike actions come with their twin or not at all. Where it is noise or
        missing they come alone, so that every query of the set has an answer.
        """
        cast: list[Action] = []
        if paired:
            action = self._decks["look_alike"].draw([])
            cast += [action, self._twins[action]]
        elif audio != "real":
            cast.append(self._decks["look_alike"].draw([]))
        while len(cast) < self._size:
            self._turn += 1
            category = ("silent", "other")[self._turn % 2]
            if sum(a.category == category for a in cast) < self._room[category]:
                cast.append(self._decks[category].draw(cast))
        return [cast[k] for k in self._random.permutation(len(cast))]


def _scene(
    config: SyntheticConfig,
    vid: str,
    split: Split,
    audio: Audio,
    cast: Sequence[Action],
    random: np.random.Generator,
) -> Scene:
    clips = int(random.integers(config.min_clips, config.max_clips + 1))
    duration = round(clips * random.uniform(config.min_clip_seconds, config.max_clip_seconds), 2)
    looks = [action.look for action in cast]
    events = []
    for action, (first, last) in zip(cast, _spans(config, clips, len(cast), random), strict=True):
        start, end = (round(edge * duration / clips, 1) for edge in (first, last + 1))
        if last + 1 == clips and random.random() < 0.5:
            end = round(duration + random.uniform(0.1, 1.0), 1)
        sight = looks.count(action.look) == 1
        events.append(Event(action, first, last, sentence(action, random), start, end, sight))
    return Scene(vid, split, clips, duration, audio, tuple(events))


def _spans(config: SyntheticConfig, clips: int, count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Disjoint moments with at least one clip between two, short ones more often than long ones."""
    draws = random.integers(config.min_moment, config.max_moment + 1, size=(count, 2))
    lengths = draws.min(axis=1)
    while (free := clips - (count - 1) - lengths.sum()) < 0:
        lengths[lengths.argmax()] -= 1
    gaps = random.multinomial(free, np.full(count + 1, 1 / (count + 1)))
    gaps[1:-1] += 1
    firsts = np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return [(int(first), int(first + length) - 1) for first, length in zip(firsts, lengths, strict=True)]


def _video_ids(config: SyntheticConfig, task: Task) -> list[str]:
    """Different ids in the dataset's own form: ``3MSZA``, ``v_uqiMw7tQ1Cc``."""
    random = stream(config.seed, task, "ids")
    letters, prefix, length = string.ascii_uppercase + string.digits, "", 5
    if task == "activitynet":
        letters, prefix, length = string.ascii_letters + string.digits + "_-", "v_", 11
    ids: dict[str, None] = {}
    while len(ids) < config.videos:
        ids[prefix + "".join(letters[k] for k in random.integers(len(letters), size=length))] = None
    return list(ids)
