"""Answers to many questions over a folder of videos, a window of videos at a time.

Each video is read and encoded once, however many questions it gets; a folder of any size is never held in memory.
What cannot be read or asked is told and left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from img_deploy.errors import FeatureError, ImgDeployError, QueryError
from img_deploy.features.folders import FeatureFolder, VideoFeatures
from img_deploy.runtime.batching import bucket_batches
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, PreparedQuery
from img_deploy.runtime.engine import BATCH_SIZE, Engine
from img_deploy.runtime.questions import Plan, Question
from img_deploy.runtime.results import Answer, RowKey
from img_deploy.runtime.spans import DEFAULT_NMS

WINDOW = 16
"""Batches of videos per window: enough to find similar lengths, few enough to hold."""
CHUNK = 16
"""Batches of pairs whose answers are held before they are given out."""

Seconds = Callable[[str, int], float | None]
"""Duration of a video by its id and its clips before down-sampling; None where it is not known."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class AskOptions:
    """``nms`` is the greatest IoU of two of the ``top_k`` moments of an answer."""

    top_k: int = 1
    nms: float = DEFAULT_NMS
    batch_size: int = BATCH_SIZE


class Listener:
    """Is told what happens in a run; this one does not care."""

    def skipped(self, error: ImgDeployError) -> None:
        """A video or a query cannot be used. Raising stops the run."""

    def unknown(self, query: PreparedQuery) -> None:
        """A query holds words that the vocabulary does not know."""

    def settled(self, pairs: float) -> None:
        """So many more pairs are answered or left out; half of a pair's work is its video's."""


def ask(
    engine: Engine,
    folder: FeatureFolder,
    plan: Plan,
    seconds: Seconds = lambda vid, clips: None,  # noqa: ARG005
    options: AskOptions | None = None,
    done: Set[RowKey] = frozenset(),
    listener: Listener | None = None,
) -> Iterator[list[Answer]]:
    """Answers in the plan's order, some at a time.

    Answers whose keys are in ``done`` are left out. The others come out as they would have with them: a run that
    goes on after an interruption computes the very same batches.

    Raises:
        BackendError: the backend failed. What was yielded before is good.
    """
    run = _Run(engine, folder, plan, seconds, options or AskOptions(), done, listener or Listener())
    size = WINDOW * run.options.batch_size
    for first in range(0, len(plan.videos), size):
        yield from run.window(plan.videos[first : first + size])


class _Run:
    def __init__(
        self,
        engine: Engine,
        folder: FeatureFolder,
        plan: Plan,
        seconds: Seconds,
        options: AskOptions,
        done: Set[RowKey],
        listener: Listener,
    ) -> None:
        self.engine, self.folder, self.plan, self.seconds = engine, folder, plan, seconds
        self.options, self.done, self.listener = options, done, listener
        self._prepared: dict[Question, PreparedQuery | None] = {}  # None: cannot be asked
        self._queries: dict[Question, EncodedQuery] = {}
        self._left = 0.0  # pairs of this window that are not settled

    def window(self, vids: Sequence[str]) -> Iterator[list[Answer]]:
        """Answers of some videos."""
        planned = [(vid, q) for vid in vids for q in self.plan.questions(vid)]
        open_pairs = Counter(vid for vid, q in planned if (vid, q.qid, q.query) not in self.done)
        self._left = float(open_pairs.total())
        if self._left:
            self._prepare(vids)
            pairs = [(vid, q) for vid, q in planned if self._prepared[q] is not None]
            missing = [vid for vid, q in pairs if (vid, q.qid, q.query) not in self.done]
            # Where an earlier run left out what still cannot be read, its work is not repeated.
            if missing and (len(missing) == len(pairs) or self._any_readable(list(dict.fromkeys(missing)))):
                yield from self._answers(pairs, open_pairs)
        self._settle(self._left)  # what was left out

    def _answers(self, pairs: Sequence[tuple[str, Question]], open_pairs: Counter[str]) -> Iterator[list[Answer]]:
        videos = {}
        for video in self._encode_videos(list(dict.fromkeys(vid for vid, _ in pairs))):
            videos[video.vid] = video
            self._settle(0.5 * open_pairs[video.vid])
        self._encode_queries([q for vid, q in pairs if vid in videos])
        ready = iter([(videos[vid], self._queries[q]) for vid, q in pairs if vid in videos and q in self._queries])
        while chunk := list(islice(ready, CHUNK * self.options.batch_size)):
            yield self._ground(chunk)

    def _settle(self, pairs: float) -> None:
        self._left -= pairs
        self.listener.settled(pairs)

    def _prepare(self, vids: Sequence[str]) -> None:
        """Check the questions of a window; those of the one before are forgotten, unless they are asked again."""
        wanted = dict.fromkeys(q for vid in vids for q in self.plan.questions(vid))
        self._prepared = {q: self._prepared[q] for q in wanted if q in self._prepared}
        self._queries = {q: self._queries[q] for q in wanted if q in self._queries}
        for question in wanted:
            if question not in self._prepared:
                self._prepared[question] = self._prepare_one(question)

    def _prepare_one(self, question: Question) -> PreparedQuery | None:
        try:
            if self.engine.rules.text is None:
                query = self.engine.prepare_query(question.query, qid=question.qid)
            else:
                if question.qid is None:
                    raise QueryError(f"query {question.query!r}: got no id, expected one to find its features by")
                tokens = self.folder.load_text(question.qid)
                query = self.engine.prepare_query(tokens, qid=question.qid, query=question.query)
        except (QueryError, FeatureError) as error:
            self.listener.skipped(error)
            return None
        if query.unknown:
            self.listener.unknown(query)
        return query

    def _any_readable(self, vids: Sequence[str]) -> bool:
        problems = []
        for vid in vids:
            try:
                self.folder.load(vid)
                return True
            except FeatureError as error:
                problems.append(error)
        for problem in problems:
            self.listener.skipped(problem)
        return False

    def _encode_videos(self, vids: Sequence[str]) -> Iterator[EncodedVideo]:
        """The usable videos of a window; features are held for one batch at a time."""
        lengths = self._each(self.folder.clips, vids)
        for rows in bucket_batches([clips for _, clips in lengths], self.options.batch_size):
            loaded = self._each(self.folder.load, [lengths[row][0] for row in rows])
            yield from self._whole_or_each(self._encode_batch, [features for _, features in loaded])

    def _encode_batch(self, batch: Sequence[VideoFeatures]) -> list[EncodedVideo]:
        sounds = [one.audio for one in batch]
        encoded = self.engine.encode_video([one.video for one in batch], sounds, vid=[one.vid for one in batch])
        # The folder has down-sampled them: their own clips are those of the file.
        return [replace(own, source_clips=one.source_clips) for own, one in zip(encoded, batch, strict=True)]

    def _encode_queries(self, questions: Sequence[Question]) -> None:
        new = [q for q in dict.fromkeys(questions) if q not in self._queries]
        queries = [query for q in new if (query := self._prepared[q]) is not None]
        encoded = self._whole_or_each(lambda some: self.engine.encode_query(list(some)), queries)
        self._queries.update({Question(query.query, query.qid): query for query in encoded})

    def _ground(self, chunk: Sequence[tuple[EncodedVideo, EncodedQuery]]) -> list[Answer]:
        """The answers of a chunk that are not done yet; of each batch all are computed, or none."""
        keys = [(video.vid, query.qid, query.query) for video, query in chunk]
        if all(key in self.done for key in keys):
            return []
        answers: dict[int, Answer] = {}
        # Videos with and without sound go to different heads, so in different batches.
        order = [video.clips + (video.audio_clips is None) * (1 << 20) for video, _ in chunk]
        for rows in bucket_batches(order, self.options.batch_size):
            answers.update(zip(rows, self._ground_batch([chunk[row] for row in rows]), strict=True))
            self._settle(0.5 * sum(keys[row] not in self.done for row in rows))
        return [answers[row] for row, key in enumerate(keys) if key not in self.done]

    def _ground_batch(self, batch: Sequence[tuple[EncodedVideo, EncodedQuery]]) -> list[Answer]:
        return self.engine.ground(
            [video for video, _ in batch],
            [query for _, query in batch],
            self.options.top_k,
            self.options.nms,
            [self.seconds(video.vid, video.source_clips) for video, _ in batch],
            batch_size=self.options.batch_size,
        )

    def _each(self, read: Callable[[Item], Result], items: Sequence[Item]) -> list[tuple[Item, Result]]:
        """What ``read`` gives for each item that it does not refuse."""
        found = []
        for item in items:
            try:
                found.append((item, read(item)))
            except FeatureError as error:
                self.listener.skipped(error)
        return found

    def _whole_or_each(self, encode: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
        """``encode`` of a batch; where it refuses one of them, of each that it does not refuse alone."""
        try:
            return encode(items) if items else []
        except FeatureError:
            return [result for _, results in self._each(lambda item: encode([item]), items) for result in results]
