"""A bundle that answers: encode a video once, a query once, and ground any pair of them."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

from numpy.typing import NDArray

from img_deploy.errors import ImgDeployError, InputError
from img_deploy.features.prepare import VideoFeatures
from img_deploy.runtime.backends.choose import AUTO, Choice, choose
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.runtime.inputs import (
    Indices,
    InputRules,
    as_number,
    as_seconds,
    as_share,
    as_text,
    at_least_one,
    chosen,
    input_rules,
    listed,
    many,
    one_each,
    side_by_side,
)
from img_deploy.runtime.results import Answer
from img_deploy.runtime.spans import DEFAULT_NMS
from img_deploy.runtime.stages import Pair, answer_pair, encode_queries, encode_videos, ground_pairs, whole
from img_deploy.text.vocabulary import Vocabulary

BATCH_SIZE = 16
"""Items per run of a graph, unless told otherwise. Answers do not depend on it."""

Array = NDArray[Any]
Text = str | Array | Query


def load_bundle(path: str | os.PathLike[str], backend: str = AUTO, threads: int | None = None) -> "Predictor":
    """Open a bundle for questions.

    >>> predictor = load_bundle("deploy")  # doctest: +SKIP
    >>> video = predictor.encode_video(np.load("video/3MSZA.npy"), np.load("audio/3MSZA.npy"))  # doctest: +SKIP
    >>> query = predictor.encode_query("person opens the door")  # doctest: +SKIP
    >>> predictor.ground(video, query, durations=30.9).best.window  # doctest: +SKIP
    (12.3, 18.1)

    Args:
        path: folder made by ``img-deploy export``.
        backend: ``auto`` (the fastest that works here; ``predictor.choice`` says which and why), ``onnxruntime``,
            ``torch``, or one of them on a device (``torch:cpu``).
        threads: CPU threads; None leaves it to the backend.

    Raises:
        BundleError: no bundle, damaged, tampered with, or newer than this program.
        BackendError: the backend asked for does not work here.
        InputError: no such backend.
    """
    bundle = Bundle.open(path)
    return Predictor(bundle, input_rules(bundle), choose(bundle, backend, threads))


class Predictor:
    """Answers of one bundle on one backend. Immutable, and safe to use from several threads at once."""

    def __init__(self, bundle: Bundle, rules: InputRules, choice: Choice) -> None:
        self.bundle, self.rules, self.choice = bundle, rules, choice
        self._run, self._network = choice.backend.run, bundle.identity

    def __repr__(self) -> str:
        return f"<Predictor of {self.bundle.folder}: {self.choice}>"

    @property
    def backend(self) -> str:
        """Name of the backend at work."""
        return self.choice.backend.name

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words it knows; None where queries are token features."""
        return self.rules.vocabulary

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Predictor":
        """The same predictor knowing other words (``predictor.vocabulary.widen(glove)``), on the same backend."""
        return Predictor(self.bundle, replace(self.rules, vocabulary=vocabulary), self.choice)

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
        sounds = list(audio) if many(audio) else [audio] * len(videos)
        if len(sounds) != len(videos):
            raise InputError(f"audio: got {len(sounds)}, expected {len(videos)}, one for each")
        vids = one_each("vid", vid, len(videos), as_text)
        items = []
        for index, (clips, sound, name) in enumerate(zip(videos, sounds, vids, strict=True)):
            where = name or (f"video {index}" if many(video) else "video")
            items.append(self.rules.video_features(clips, sound, name, where))
            for remark in items[-1].remarks:
                warnings.warn(remark, stacklevel=2)
        encoded = whole(self.encode_features(items, batch_size))
        return encoded if many(video) else encoded[0]

    def encode_features(
        self, videos: Sequence[VideoFeatures], batch_size: int = BATCH_SIZE
    ) -> list[EncodedVideo | ImgDeployError]:
        """:meth:`encode_video` of videos that a feature folder gave, in one list.

        A video for which the network has no finite result gives the error that says so in its place.
        """
        size = at_least_one("batch_size", batch_size)
        return list(encode_videos(self._run, videos, self.rules.audio.width, size, self._network))

    @overload
    def encode_query(
        self, text: Text, *, qid: int | None = None, query: str = "", batch_size: int = BATCH_SIZE
    ) -> EncodedQuery: ...
    @overload
    def encode_query(
        self,
        text: list[Text] | list[str] | list[Array],
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
            text: a sentence, or token features [N, Dt], whichever the bundle takes.
            qid: ids for the answers.
            query: the sentence that token features stand for, for the answers.
            batch_size: most queries per run.

        Raises:
            QueryError: empty, too long, or a sentence where token features are wanted (or the other way).
            FeatureError: token features of another width, NaN or Inf.
        """
        texts = list(text) if many(text) else [text]
        qids = one_each("qid", qid, len(texts), as_number)
        names = one_each("query", query, len(texts), as_text)
        items = [self.rules.query(*one) for one in zip(texts, qids, names, strict=True)]
        encoded = whole(self.encode_prepared(items, batch_size))
        return encoded if many(text) else encoded[0]

    def encode_prepared(
        self, queries: Sequence[Query], batch_size: int = BATCH_SIZE
    ) -> list[EncodedQuery | ImgDeployError]:
        """:meth:`encode_query` of what ``rules.query`` gave; an error in the place of one without a finite result."""
        return list(encode_queries(self._run, queries, at_least_one("batch_size", batch_size), self._network))

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
        video_list = listed("videos", videos, EncodedVideo, "encode_video")
        query_list = listed("queries", queries, EncodedQuery, "encode_query")
        seconds = one_each("durations", durations, len(video_list), as_seconds)
        counts = len(video_list), len(query_list)
        indices = side_by_side(videos, queries) if pairs is None else chosen(pairs, *counts)
        items = [(video_list[v], query_list[q], seconds[v]) for v, q in indices]
        answers = whole(self.ground_each(items, top_k, nms, batch_size))
        return answers[0] if one_answer else answers

    def answer(
        self,
        video: Array,
        audio: Array | None,
        text: Text,
        *,
        vid: str = "",
        qid: int | None = None,
        query: str = "",
        top_k: int = 1,
        nms: float = DEFAULT_NMS,
        duration: float | None = None,
    ) -> Answer:
        """The moments of one query in one video, neither of them used again.

        The answer of :meth:`encode_video`, :meth:`encode_query` and :meth:`ground`, which take the same arguments; on a
        GPU it takes one run instead of three, where the video has sound.

        Raises:
            FeatureError, QueryError, InputError: as they do.
        """
        name, sentence, number = as_text("vid", vid), as_text("query", query), as_number("qid", qid)
        has_pair = self.choice.backend.has_pair  # which also tells the range of the values
        features = self.rules.unchecked(video, audio, name) if has_pair else None
        if features is None:
            features = self.rules.video_features(video, audio, name, name or "video")
        asked = self.rules.query(text, number, sentence)
        seconds = one_each("duration", duration, 1, as_seconds)[0]
        if features.audio is None or not has_pair:
            encoded, words = whole(self.encode_features([features])), whole(self.encode_prepared([asked]))
            found: Answer | ImgDeployError = self.ground_each([(encoded[0], words[0], seconds)], top_k, nms)[0]
        else:
            most, share = at_least_one("top_k", top_k), as_share("nms", nms)
            found, ranges = answer_pair(self._run, features, asked, seconds, most, share)
            if not features.checked and not self.rules.usual(ranges):
                features = self.rules.video_features(video, audio, name, name or "video")
        for remark in features.remarks:
            warnings.warn(remark, stacklevel=2)
        return whole([found])[0]

    def ground_each(
        self, pairs: Sequence[Pair], top_k: int = 1, nms: float = DEFAULT_NMS, batch_size: int = BATCH_SIZE
    ) -> list[Answer | ImgDeployError]:
        """:meth:`ground` of (video, query, seconds) each; an error in the place of one without a finite result."""
        for made in (one for video, query, _ in pairs for one in (video, query)):
            if made.network != self._network:
                name = f"video {made.vid!r}" if isinstance(made, EncodedVideo) else f"query {made.query!r}"
                raise InputError(f"{name}: was encoded by another bundle's network; encode it again with this one")
        size, most = at_least_one("batch_size", batch_size), at_least_one("top_k", top_k)
        return list(ground_pairs(self._run, pairs, most, as_share("nms", nms), size))
