"""What a bundle takes: kinds, widths and limits, and holding videos, queries and arguments to them."""

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from img_deploy.errors import BundleError, FeatureError, InputError, QueryError
from img_deploy.features.kinds import PLAIN, FeatureKind, kind_named
from img_deploy.features.prepare import VideoFeatures, prepare_tokens, prepare_video, taken_as_given
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import Query
from img_deploy.text.tokens import tokenize
from img_deploy.text.vocabulary import Vocabulary

Value = TypeVar("Value")
Indices = Sequence[tuple[int, int]]
"""(index of a video, index of a query) of each pair."""


@dataclass(frozen=True, eq=False)
class InputRules:
    """The inputs of one bundle. ``text`` is None where queries are sentences, which need ``vocabulary``."""

    video: FeatureKind
    audio: FeatureKind
    text: FeatureKind | None
    vocabulary: Vocabulary | None
    max_clips: int
    max_words: int
    max_chars: int

    def video_features(self, video: ArrayLike, audio: ArrayLike | None, vid: str, where: str) -> VideoFeatures:
        """One video as the network takes it, see :func:`img_deploy.features.prepare.prepare_video`.

        May hold the given arrays themselves.
        """
        prepared = prepare_video(where, video, audio, self.video, self.audio, self.max_clips, shared=True)
        return replace(prepared, vid=vid)

    def unchecked(self, video: ArrayLike, audio: ArrayLike | None, vid: str) -> VideoFeatures | None:
        """One video whose features need no change, its values not looked at; None of another one."""
        return taken_as_given(vid, video, audio, self.video, self.audio, self.max_clips)

    def usual(self, ranges: Sequence[float]) -> bool:
        """Whether least and greatest number of a video, then of its sound, are as usual."""
        low, high, quietest, loudest = ranges
        return self.video.is_usual(low, high) and self.audio.is_usual(quietest, loudest)

    def query(self, text: str | ArrayLike | Query, qid: int | None = None, sentence: str = "") -> Query:
        """A sentence as words with their vectors, or token features [N, Dt] as they are, checked.

        Words past ``max_words`` are left out, as in the paper's code.

        Raises:
            QueryError: empty, or a sentence where token features are wanted (or the other way).
            FeatureError: token features of another width, or not finite.
        """
        if isinstance(text, Query):
            return text if text.content is not None else self.query(text.sentence, text.qid)
        if isinstance(text, str):
            if self.vocabulary is None:
                raise QueryError(
                    f"query {text[:40]!r}: got a sentence, expected its token features: this bundle was trained on "
                    f"{self.text}, which come from a language model it does not hold; extract them and ask by query id"
                )
            return Query(text, qid, content=self.vocabulary.encode(tokenize(text, self.max_words, self.max_chars)))
        if self.text is None:
            kind = type(text).__name__
            raise QueryError(f"query {sentence!r}: got a {kind}, expected a sentence; this bundle takes plain text")
        where = f"query {qid if qid is not None else sentence!r}: token features"
        return Query(sentence, qid, content=prepare_tokens(where, text, self.text, self.max_words))


def input_rules(bundle: Bundle) -> InputRules:
    """The rules of a bundle. Raises BundleError where the parts of the bundle do not fit each other."""
    manifest, config = bundle.manifest, bundle.manifest.model
    tokens = config.variant == "tokens"
    limits = manifest.limits
    problems = []
    if limits["clips"] > config.max_clips:
        problems.append(f"limit of {limits['clips']} clips, but the network takes {config.max_clips}")
    vocabulary = None if tokens else bundle.vocabulary()
    if vocabulary is None and not tokens:
        problems.append("no vocabulary, which its variant needs")
    if vocabulary is not None and (vocabulary.char_table_size, vocabulary.vectors.shape[1]) != (
        config.chars,
        config.text_dim,
    ):
        problems.append(
            f"vocabulary of {vocabulary.char_table_size} characters and width {vocabulary.vectors.shape[1]}, "
            f"but the network takes {config.chars} and {config.text_dim}"
        )

    def kind(stream: str, width: int) -> FeatureKind:
        entry = manifest.features.get(stream)
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.get("width") != width:
            problems.append(f"{stream} features {entry}, but the network takes width {width}")
            return kind_named(PLAIN, width)
        try:
            return kind_named(entry["name"], width)
        except FeatureError as error:
            problems.append(str(error))
            return kind_named(PLAIN, width)

    rules = InputRules(
        video=kind("video", config.video_dim),
        audio=kind("audio", config.audio_dim),
        text=kind("text", config.text_dim) if tokens else None,
        vocabulary=vocabulary,
        max_clips=limits["clips"],
        max_words=limits["words"],
        max_chars=limits["chars"],
    )
    if problems:
        raise BundleError(f"{bundle.folder}: {'; '.join(problems)}; export the bundle again")
    return rules


# Arguments of the Python API. A list or tuple holds several items, anything else is one; numbers, ids and durations may
# also come as an array or tensor.


def many(value: Any) -> bool:
    """Whether an argument holds several items or is one."""
    return isinstance(value, list | tuple)


def listed(name: str, value: Any, kind: type[Value], maker: str) -> list[Value]:
    """The items of an argument, all of one class, which ``maker`` makes. Raises InputError."""
    items = list(value) if many(value) else [value]
    for item in items:
        if not isinstance(item, kind):
            raise InputError(f"{name}: got a {type(item).__name__}, expected what {maker} gives ({kind.__name__})")
    return items


def one_each(name: str, value: Any, count: int, convert: Callable[[str, Any], Value]) -> list[Value]:
    """``value`` per item: as many, or one for all. Raises InputError for another count, and what ``convert`` raises."""
    if not many(value := _plain(value)):
        return [convert(name, value)] * count
    if len(value) != count:
        raise InputError(f"{name}: got {len(value)}, expected {count}, one for each")
    return [convert(name, _plain(one)) for one in value]


def as_text(name: str, value: Any) -> str:
    """A str. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(f"{name}: got {_shown(value)}, expected text")
    return str(value)


def as_number(name: str, value: Any) -> int | None:
    """A whole number or None. Raises InputError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return None if value is None else operator.index(value)
    except TypeError:
        raise InputError(f"{name}: got {_shown(value)}, expected a whole number") from None


def at_least_one(name: str, value: Any) -> int:
    """A whole number above 0. Raises InputError."""
    number = as_number(name, _plain(value))
    if number is None or number < 1:
        raise InputError(f"{name}: got {number}, expected at least 1")
    return number


def as_share(name: str, value: Any) -> float:
    """A number from 0 to 1. Raises InputError."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name}: got {value!r}, expected a number from 0 to 1")
    return float(value)


def as_seconds(name: str, value: Any) -> float | None:
    """A duration in seconds, more than 0, or None. Raises InputError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: got {_shown(value)}, expected seconds")
    if not 0 < value <= sys.float_info.max:
        raise InputError(f"{name}: got {value!s:.40} seconds, expected more than 0")
    return float(value)


def side_by_side(videos: Any, queries: Any) -> Indices:
    """One with each of the others, or as many of both one by one. Raises InputError for other numbers of both."""
    if many(videos) and many(queries):
        if len(videos) != len(queries):
            raise InputError(
                f"ground: got {len(videos)} videos and {len(queries)} queries, expected as many of each; "
                "say which go together with pairs=[(video, query), ...]"
            )
        return [(index, index) for index in range(len(videos))]
    if many(videos):
        return [(index, 0) for index in range(len(videos))]
    return [(0, index) for index in range(len(queries) if many(queries) else 1)]


def chosen(pairs: Any, videos: int, queries: int) -> Indices:
    """``pairs`` of so many videos and queries. Raises InputError where one is no pair of indices, or out of range."""
    pairs = pairs.tolist() if hasattr(pairs, "tolist") else pairs
    found = []
    for pair in pairs if many(pairs) else [pairs]:
        numbers = [as_number("pairs", one) for one in pair] if many(pair) else []
        match numbers:
            case [int(video), int(query)] if 0 <= video < videos and 0 <= query < queries:
                found.append((video, query))
            case _:
                expected = f"expected (video, query) indices of {videos} videos and {queries} queries"
                raise InputError(f"pairs: got {pair!r:.40}, {expected}")
    return found


def _plain(value: Any) -> Any:
    """Arrays, tensors and their numbers, of whichever library, as Python's lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _shown(value: Any) -> str:
    return f"{value!r:.40} ({type(value).__name__})"
