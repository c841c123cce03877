"""From a question to its answers, a stage at a time through the batcher. Knows no HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import ImgDeployError
from img_deploy.features.prepare import VideoFeatures
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.runtime.lots import LOT
from img_deploy.runtime.predictor import Predictor
from img_deploy.runtime.ranking import BestMoments
from img_deploy.runtime.results import Answer
from img_deploy.runtime.spans import DEFAULT_NMS
from img_deploy.server.batcher import Batcher, BusyError, Heard, Stage
from img_deploy.server.shelf import Fetched, Loaded, Shelf

FEW = 16
"""Videos that are looked up without a thread where no file need be read for it: a thread costs more than that takes."""


@dataclass(frozen=True)
class Question:
    """What a request asks: ``text`` of the ``videos`` (None: of all)."""

    text: str | NDArray[np.floating]
    """A sentence, or token features [N, Dt]."""
    sentence: str = ""
    """What token features stand for."""
    qid: int | None = None
    videos: Sequence[str] | None = None
    top_k: int = 1
    nms: float = DEFAULT_NMS
    best: int | None = None
    """So many best moments over all videos, instead of an answer for each."""


@dataclass
class Found:
    """Answers, and what there is to say about them."""

    query: EncodedQuery | None = None
    """None where there was no video to ask."""
    answers: list[Answer] = field(default_factory=list)
    skipped: list[ImgDeployError] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Asked:
    """A query of some pairs. It is encoded in the batch of the first of them."""

    query: Query
    encoded: EncodedQuery | ImgDeployError | None = None


class Search:
    """Answers questions about the videos of a shelf. Use it from one event loop."""

    def __init__(
        self,
        predictor: Predictor,
        shelf: Shelf,
        batch_size: int,
        window: float,
        most_requests: int,
        timeout: float,
        heard: Heard = lambda *_: None,
        threads: int = 1,
    ) -> None:
        self.predictor, self.shelf, self.timeout = predictor, shelf, timeout
        self.batcher = Batcher(stages(predictor, batch_size), batch_size, window, most_requests, heard, threads)
        self.ready = False
        """Whether it is warm."""
        self._writer = ThreadPoolExecutor(1, "writer")
        """Changes the shelf. One that waits for another program's writing keeps no question waiting."""

    async def warm_up(self) -> None:
        """Run every stage on batches of one and of many, so that no request pays for what is made at a first run."""
        rules, many = self.predictor.rules, self.batcher.batch_size
        clips = np.zeros((rules.max_clips, rules.video.width), np.float32)
        sound = np.zeros((rules.max_clips, rules.audio.width), np.float32)
        text = "a" if rules.text is None else np.zeros((4, rules.text.width), np.float32)
        for count in (1, many):
            videos = [VideoFeatures("", clips, audio, len(clips)) for audio in (sound, None)]
            encoded = [_good(await self.batcher.run("video", [one] * count, begun=0.0)) for one in videos]
            for video in encoded:
                pairs = [(video, Asked(rules.query(text)), None) for _ in range(count)]
                _good(await self.batcher.run("ground", pairs, (1, DEFAULT_NMS), begun=0.0))
        self.ready = True

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """One admitted request, in its time: when it began. Raises BusyError."""
        if not self.ready:
            raise BusyError("the server is warming up; ask again in a moment")
        with self.batcher.admitted():
            try:
                async with asyncio.timeout(self.timeout):
                    yield time.monotonic()
            except TimeoutError:
                raise BusyError(f"not done within {self.timeout:g} s; ask later, or about fewer videos") from None

    async def ground(self, question: Question) -> Found:
        """The answers, video by video in the order asked for, or the best moments of all.

        Raises:
            QueryError, FeatureError: the query cannot be asked; no video of an id; none of the videos can be used.
            InputError: ``top_k`` or ``nms`` is out of range.
            BusyError: too many requests, or out of time.
            BackendError: the backend failed.
        """
        async with self._turn() as begun:
            size = LOT * self.batcher.batch_size
            asked = Asked(self.predictor.rules.query(question.text, question.qid, question.sentence))
            vids, fetched = await self._looked_up(question.videos, size)
            found = Found()
            ranking = BestMoments(question.best) if question.best is not None else None
            for first in range(0, len(vids), size):
                if first:
                    fetched = await asyncio.to_thread(self.shelf.fetch, vids[first : first + size])
                    begun = time.monotonic() - self.batcher.window  # it waits for nothing, but takes its turn
                videos = await self._encoded(fetched, found, begun)
                answers = await self._answers(videos, asked, question, found, begun)
                if isinstance(asked.encoded, ImgDeployError):
                    raise asked.encoded
                found.query = asked.encoded
                if ranking is None:
                    found.answers += answers
                else:
                    ranking.add(answers)
        if ranking is not None:
            found.answers = ranking.ranked()
        if found.skipped and not found.answers:
            raise found.skipped[0]
        return found

    async def _looked_up(self, videos: Sequence[str] | None, most: int) -> tuple[list[str], list[Fetched]]:
        """The videos' ids as spelled here, and what is known of the first ``most`` of them."""
        if videos is not None and len(videos) <= FEW and (at_hand := self.shelf.at_hand(videos)) is not None:
            return list(at_hand), list(at_hand.values())

        def look() -> tuple[list[str], list[Fetched]]:
            self.shelf.refresh()
            names = self.shelf.videos() if videos is None else map(self.shelf.find, videos)
            vids = list(dict.fromkeys(names))
            return vids, self.shelf.fetch(vids[:most])

        return await asyncio.to_thread(look)

    async def _answers(
        self, videos: Sequence[EncodedVideo], asked: Asked, question: Question, found: Found, begun: float
    ) -> list[Answer]:
        """Of some videos; what cannot be answered goes to ``found.skipped``."""
        pairs = [(video, asked, self.shelf.seconds(video.vid, video.source_clips)) for video in videos]
        results = await self.batcher.run("ground", pairs, (question.top_k, question.nms), begun)
        return _sorted_out(results, found.skipped)

    async def _encoded(self, fetched: list[Fetched], found: Found, begun: float) -> list[EncodedVideo]:
        loaded = {row: one for row, one in enumerate(fetched) if isinstance(one, Loaded)}
        if loaded:
            for one in loaded.values():
                found.remarks += one.features.remarks
            encoded = await self.batcher.run("video", [one.features for one in loaded.values()], begun=begun)
            for (row, one), video in zip(loaded.items(), encoded, strict=True):
                fetched[row] = video
                if isinstance(video, EncodedVideo):
                    self.shelf.keep(video, one.mark)
        return _sorted_out(fetched, found.skipped)

    async def add(self, features: VideoFeatures, duration: float | None) -> EncodedVideo:
        """Encode a video and take it in. Raises FeatureError, BusyError, BackendError."""
        async with self._turn():
            video: EncodedVideo = _good(await self.batcher.run("video", [features]))
            await self._written(self.shelf.add, features, video, duration)
        return video

    async def delete(self, vid: str) -> None:
        """Forget a video. Raises UnknownVideoError, InputError, BusyError."""
        async with self._turn():
            await self._written(self.shelf.delete, vid)

    async def _written(self, change: Callable[..., None], *given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, change, *given)


def stages(predictor: Predictor, batch_size: int) -> dict[str, Stage]:
    """What a predictor does, as the stages of a batcher.

    An item of ``ground`` is (EncodedVideo, Asked, seconds or None), its key (top_k, nms).
    """

    def ground(items: list[tuple[EncodedVideo, Asked, float | None]], options: tuple[int, float]) -> list[Any]:
        new = list({id(asked): asked for _, asked, _ in items if asked.encoded is None}.values())
        for asked, query in zip(new, predictor.encode_prepared([one.query for one in new], batch_size), strict=True):
            asked.encoded = query  # another thread may do so too: either is right
        triples = [(video, asked.encoded, seconds) for video, asked, seconds in items]
        pairs = [(video, query, seconds) for video, query, seconds in triples if isinstance(query, EncodedQuery)]
        answers = iter(predictor.ground_each(pairs, *options, batch_size))
        return [next(answers) if isinstance(query, EncodedQuery) else query for _, query, _ in triples]

    return {
        "video": Stage(lambda items, _: predictor.encode_features(items, batch_size), lambda item: len(item.video)),
        "ground": Stage(ground, lambda item: item[0].clips),
    }


def _good(results: Sequence[Any]) -> Any:
    """The first result. Raises it where it is an error."""
    result = results[0]
    if isinstance(result, ImgDeployError):
        raise result
    return result


def _sorted_out(results: Sequence[Any], skipped: list[ImgDeployError]) -> list[Any]:
    """The results that are none of the errors, which go to ``skipped``."""
    skipped += [one for one in results if isinstance(one, ImgDeployError)]
    return [one for one in results if not isinstance(one, ImgDeployError)]
