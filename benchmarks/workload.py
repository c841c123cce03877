"""What the backends are asked while they are timed: drawn inputs, or videos of a feature folder cut to one length."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import FeatureError
from img_deploy.features.folders import FeatureFolder, VideoFeatures, open_folder
from img_deploy.runtime.inputs import InputRules
from img_deploy.text.tokens import tokenize

SETS = 4
"""Input sets that the rounds rotate among, so that repeated runs do not measure the cache."""

DRAWN_FILES = 8
"""Drawn videos that are written to disk, for the time of reading."""

Query = str | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InputSet:
    """One batch of pairs: B videos of L clips each, and B queries of N words."""

    videos: list[NDArray[np.float32]]
    """B of [L, Dv]"""
    audios: list[NDArray[np.float32] | None]
    """B of [L, Da]"""
    queries: list[Query]
    """B sentences, or token features [N, Dt]."""


class Drawn:
    """Standard-normal features, and sentences of words that the bundle knows. The same for the same seed."""

    def __init__(self, rules: InputRules, words: int, seed: int = 0) -> None:
        self.rules, self.words, self.seed = rules, words, seed

    def __str__(self) -> str:
        return f"drawn (seed {self.seed})"

    def longest(self) -> int:
        """Most clips that a video can be asked for with."""
        return self.rules.max_clips

    def sets(self, batch: int, clips: int) -> list[InputSet]:
        """:data:`SETS` different batches."""
        random = np.random.default_rng([self.seed, batch, clips])
        return [self._set(random, batch, clips) for _ in range(SETS)]

    def _set(self, random: np.random.Generator, batch: int, clips: int) -> InputSet:
        video, audio = self.rules.video.width, self.rules.audio.width
        return InputSet(
            [random.standard_normal((clips, video), np.float32) for _ in range(batch)],
            [random.standard_normal((clips, audio), np.float32) for _ in range(batch)],
            draw_queries(self.rules, self.words, batch, random),
        )

    @contextmanager
    def folder(self, clips: int) -> Iterator[tuple[FeatureFolder, list[str]]]:
        """A feature folder to read from, and the videos in it; removed afterwards."""
        random = np.random.default_rng([self.seed, clips])
        with TemporaryDirectory(prefix="img-deploy-profile-") as place:
            for stream, width in (("video", self.rules.video.width), ("audio", self.rules.audio.width)):
                (Path(place) / stream).mkdir()
                for number in range(DRAWN_FILES):
                    np.save(
                        Path(place) / stream / f"drawn{number}.npy", random.standard_normal((clips, width), np.float32)
                    )
            folder = open_folder(place, self.rules.video, self.rules.audio, max_clips=self.rules.max_clips)
            yield folder, folder.videos()


class FromFolder:
    """Videos of a feature folder that are long enough, cut to the length asked for; sentences are drawn.

    Videos with sound are taken where there are any: the fused head is what is timed.
    """

    def __init__(self, path: Path, rules: InputRules, words: int, seed: int = 0) -> None:
        self.rules, self.words, self.seed = rules, words, seed
        self._folder = open_folder(path, rules.video, rules.audio, max_clips=rules.max_clips)
        names = self._folder.videos()
        self._sounding = [vid for vid in names if self._folder.has_audio(vid)]
        self._clips = {vid: self._folder.clips(vid) for vid in self._sounding or names}
        if not self._clips:
            raise FeatureError(f"{path}: got no videos, expected at least one")

    def __str__(self) -> str:
        kind = "with sound" if self._sounding else "without sound: the visual head answers"
        return f"{self._folder.path} ({len(self._clips)} videos {kind}), cut to length"

    def longest(self) -> int:
        """Most clips that a video can be asked for with."""
        return max(self._clips.values())

    def sets(self, batch: int, clips: int) -> list[InputSet]:
        """:data:`SETS` batches; videos come again where there are too few."""
        random = np.random.default_rng([self.seed, batch, clips])
        names = self._long_enough(clips)
        needed = [names[index % len(names)] for index in range(batch * SETS)]
        loaded = {vid: self._folder.load(vid) for vid in dict.fromkeys(needed)}
        return [
            self._set([loaded[vid] for vid in needed[number * batch :][:batch]], clips, random)
            for number in range(SETS)
        ]

    def _set(self, videos: list[VideoFeatures], clips: int, random: np.random.Generator) -> InputSet:
        return InputSet(
            [one.video[:clips] for one in videos],
            [None if one.audio is None else one.audio[:clips] for one in videos],
            draw_queries(self.rules, self.words, len(videos), random),
        )

    @contextmanager
    def folder(self, clips: int) -> Iterator[tuple[FeatureFolder, list[str]]]:
        """The folder itself, and its videos that are long enough."""
        yield self._folder, self._long_enough(clips)

    def _long_enough(self, clips: int) -> list[str]:
        names = [vid for vid, length in self._clips.items() if length >= clips]
        if not names:
            raise FeatureError(
                f"{self._folder.path}: its longest video has {self.longest()} clips, expected at least {clips}; "
                "give shorter --clips"
            )
        return names


Workload = Drawn | FromFolder


def draw_queries(rules: InputRules, words: int, count: int, random: np.random.Generator) -> list[Query]:
    """Queries of exactly ``words`` words: sentences where the bundle takes them, else token features [N, Dt]."""
    if rules.text is not None:
        width = rules.text.width
        return [random.standard_normal((words, width), np.float32) for _ in range(count)]
    known = rules.vocabulary.words if rules.vocabulary is not None else ()
    return [_sentence(known, words, random) for _ in range(count)]


def _sentence(known: tuple[str, ...], words: int, random: np.random.Generator) -> str:
    """Known words that the tokenizer leaves whole; ``thing`` where chance finds none."""
    chosen: list[str] = []
    for _ in range(20 * words):
        if len(chosen) == words or not known:
            break
        word = known[random.integers(len(known))]
        if word.isascii() and word.isalpha() and tokenize(word) == [word]:
            chosen.append(word)
    return " ".join(chosen + ["thing"] * (words - len(chosen)))
