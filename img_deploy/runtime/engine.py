"""A bundle that answers: encode a video once, a query once, and ground any pair of them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

from numpy.typing import NDArray

from img_deploy.errors import InputError
from img_deploy.runtime.backends.choose import AUTO, Choice, choose
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, PreparedQuery
from img_deploy.runtime.inputs import InputRules, input_rules, many, one_each
from img_deploy.runtime.results import Answer
from img_deploy.runtime.spans import DEFAULT_NMS
from img_deploy.runtime.stages import Clips, Pair, encode_queries, encode_videos, ground_pairs
from img_deploy.text.vocabulary import Vocabulary

BATCH_SIZE = 16
"""Items per run of a graph, unless told otherwise. Answers do not depend on it."""

Array = NDArray[Any]
Text = str | Array | PreparedQuery
Indices = Sequence[tuple[int, int]]


def load_bundle(path: str | os.PathLike[str], backend: str = AUTO, threads: int | None = None) -> "Engine":
    """Open a bundle for questions.

    >>> engine = load_bundle("deploy")  # doctest: +SKIP
    >>> video = engine.encode_video(np.load("video/3MSZA.npy"), np.load("audio/3MSZA.npy"))  # doctest: +SKIP
    >>> query = engine.encode_query("person opens the door")  # doctest: +SKIP
    >>> engine.ground(video, query, durations=30.9).best.window  # doctest: +SKIP
    (12.3, 18.1)

    Args:
        path: folder made by ``img-deploy export``.
        backend: ``auto`` (the fastest that works here; ``engine.choice`` says which and why), ``onnxruntime``,
            ``torch``, or one of them on a device (``torch:cpu``).
        threads: CPU threads; None leaves it to the backend.

    Raises:
        BundleError: no bundle, damaged, tampered with, or newer than this program.
        BackendError: the backend asked for does not work here.
        InputError: no such backend.
    """
    bundle = Bundle.open(path)
    return Engine(bundle, input_rules(bundle), choose(bundle, backend, threads))


class Engine:
    """Answers of one bundle on one backend. Immutable, and safe to use from several threads at once."""

    def __init__(self, bundle: Bundle, rules: InputRules, choice: Choice) -> None:
        self.bundle, self.rules, self.choice = bundle, rules, choice
        self._run = choice.backend.run

    def __repr__(self) -> str:
        return f"<Engine of {self.bundle.folder}: {self.choice}>"

    @property
    def backend(self) -> str:
        """Name of the backend at work."""
        return self.choice.backend.name

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words it knows; None where queries are token features."""
        return self.rules.vocabulary

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Engine":
        """The same engine knowing other words (``engine.vocabulary.widen(glove)``), on the same backend."""
        return Engine(self.bundle, replace(self.rules, vocabulary=vocabulary), self.choice)

    def close(self) -> None:
        """Give back what the backend holds; it answers no more."""
        self.choice.backend.close()

    @overload
    def encode_video(
        self, video: Array, audio: Array | None = None, *, vid: str = "", batch_size: int = BATCH_SIZE
    ) -> EncodedVideo: ...
    @overload
    def encode_video(
        self,
        video: Sequence[Array],
        audio: Sequence[Array | None] | None = None,
        *,
        vid: str | Sequence[str] = "",
        batch_size: int = BATCH_SIZE,
    ) -> list[EncodedVideo]: ...
    def encode_video(
        self, video: Any, audio: Any = None, *, vid: Any = "", batch_size: int = BATCH_SIZE
    ) -> EncodedVideo | list[EncodedVideo]:
        """Clips of one video, or of a list of videos, ready to be asked.

        Args:
            video: [T, Dv]; more clips than the bundle takes are down-sampled.
            audio: [Ta, Da], aligned to the video's clips; None for no sound. For a list of videos a list with an
                array or None each, or None for no sound in any.
            vid: ids for the answers.
            batch_size: most videos per run.

        Raises:
            FeatureError: wrong width or number of axes, no clips, NaN or Inf; names the video.
            InputError: lists that do not fit each other.
        """
        videos = list(video) if many(video) else [video]
        if many(video) and audio is not None and not many(audio):
            raise InputError("audio: got one array for a list of videos, expected a list with an array or None each")
        sounds, vids = one_each("audio", audio, len(videos)), one_each("vid", vid, len(videos))
        items = []
        for index, (clips, sound, name) in enumerate(zip(videos, sounds, vids, strict=True)):
            where = name or (f"video {index}" if many(video) else "video")
            items.append(Clips(where, name, *self.rules.clips(clips, sound, where)))
        encoded = encode_videos(self._run, items, self.rules.audio.width, batch_size)
        return encoded if many(video) else encoded[0]

    def prepare_query(self, text: str | Array, *, qid: int | None = None, query: str = "") -> PreparedQuery:
        """The cheap half of :meth:`encode_query`: checks, words and their vectors. Raises QueryError, FeatureError."""
        return self.rules.query(text, qid, query)

    @overload
    def encode_query(
        self, text: Text, *, qid: int | None = None, query: str = "", batch_size: int = BATCH_SIZE
    ) -> EncodedQuery: ...
    @overload
    def encode_query(
        self,
        text: list[Text] | list[str] | list[Array] | list[PreparedQuery],
        *,
        qid: int | Sequence[int | None] | None = None,
        query: str | Sequence[str] = "",
        batch_size: int = BATCH_SIZE,
    ) -> list[EncodedQuery]: ...
    def encode_query(
        self, text: Any, *, qid: Any = None, query: Any = "", batch_size: int = BATCH_SIZE
    ) -> EncodedQuery | list[EncodedQuery]:
        """Words of one query, or of a list of queries, ready to be answered.

        Args:
            text: a sentence, or token features [N, Dt], whichever the bundle takes; or what
                :meth:`prepare_query` made.
            qid: ids for the answers.
            query: the sentence that token features stand for, for the answers.
            batch_size: most queries per run.

        Raises:
            QueryError: empty, too long, or a sentence where token features are wanted (or the other way).
            FeatureError: token features of another width, NaN or Inf.
        """
        texts = list(text) if many(text) else [text]
        names = zip(texts, one_each("qid", qid, len(texts)), one_each("query", query, len(texts)), strict=True)
        items = [one if isinstance(one, PreparedQuery) else self.rules.query(one, *rest) for one, *rest in names]
        encoded = encode_queries(self._run, items, batch_size)
        return encoded if many(text) else encoded[0]

    @overload
    def ground(
        self,
        videos: EncodedVideo,
        queries: EncodedQuery,
        top_k: int = 1,
        nms: float = DEFAULT_NMS,
        durations: float | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> Answer: ...
    @overload
    def ground(
        self,
        videos: Sequence[EncodedVideo],
        queries: EncodedQuery | Sequence[EncodedQuery],
        top_k: int = 1,
        nms: float = DEFAULT_NMS,
        durations: float | Sequence[float | None] | None = None,
        *,
        pairs: Indices | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Answer]: ...
    @overload
    def ground(
        self,
        videos: EncodedVideo,
        queries: Sequence[EncodedQuery],
        top_k: int = 1,
        nms: float = DEFAULT_NMS,
        durations: float | Sequence[float | None] | None = None,
        *,
        pairs: Indices | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Answer]: ...
    def ground(
        self,
        videos: Any,
        queries: Any,
        top_k: int = 1,
        nms: float = DEFAULT_NMS,
        durations: Any = None,
        *,
        pairs: Indices | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Answer | list[Answer]:
        """The moments of queries in videos; videos with and without sound may be mixed.

        Args:
            videos, queries: one of each gives one answer. One query on a list of videos, or a list of queries on
                one video, gives a list; lists of both must be equally long and are taken one by one.
            top_k: most moments per answer, best first.
            nms: greatest overlap of two of them, an IoU from 0 to 1.
            durations: seconds of each video; without them moments are clips and fractions alone.
            pairs: (index of a video, index of a query) of each answer, instead of that rule.
            batch_size: most pairs per run.

        Raises:
            InputError: lists that do not fit, a pair out of range; ``top_k``, ``nms`` or a duration out of range.
        """
        one_answer = not many(videos) and not many(queries) and pairs is None
        video_list = list(videos) if many(videos) else [videos]
        query_list = list(queries) if many(queries) else [queries]
        seconds = [_seconds(one) for one in one_each("durations", durations, len(video_list))]
        if pairs is None:
            indices = _side_by_side(videos, queries)
        else:
            indices = [_inside(pair, len(video_list), len(query_list)) for pair in pairs]
        items = [Pair(video_list[v], query_list[q], seconds[v]) for v, q in indices]
        answers = ground_pairs(self._run, items, top_k, nms, batch_size)
        return answers[0] if one_answer else answers


def _side_by_side(videos: Any, queries: Any) -> Indices:
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


def _inside(pair: tuple[int, int], videos: int, queries: int) -> tuple[int, int]:
    if len(pair) != 2 or not (0 <= pair[0] < videos and 0 <= pair[1] < queries):
        raise InputError(f"pairs: got {tuple(pair)}, expected indices of {videos} videos and {queries} queries")
    return pair


def _seconds(duration: float | None) -> float | None:
    if duration is not None and not 0 < duration < float("inf"):
        raise InputError(f"duration: got {duration} seconds, expected more than 0")
    return duration
