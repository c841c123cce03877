"""A library that answers: an index of encoded videos under one bundle, for Python programs."""

import os
from collections.abc import Iterable, Iterator, Sequence

from img_deploy.errors import InputError
from img_deploy.runtime.asking import Session
from img_deploy.runtime.backends.choose import AUTO
from img_deploy.runtime.index import VideoIndex
from img_deploy.runtime.inputs import as_share, as_text, at_least_one, many
from img_deploy.runtime.lots import AskOptions, Request
from img_deploy.runtime.predictor import Predictor, load_bundle
from img_deploy.runtime.queries import plan_queries
from img_deploy.runtime.ranking import BestMoments
from img_deploy.runtime.results import Answer
from img_deploy.runtime.spans import DEFAULT_NMS
from img_deploy.runtime.workers import ThisProcess


def load_index(
    path: str | os.PathLike[str],
    bundle: str | os.PathLike[str] = "deploy",
    backend: str = AUTO,
    threads: int | None = None,
) -> "Library":
    """Open an index for questions.

    >>> library = load_index("INDEX", "deploy")  # doctest: +SKIP
    >>> library.best("person opens the door", 3)[0].best.window  # doctest: +SKIP
    (12.3, 18.1)

    Args:
        path: made by ``img-deploy index``.
        bundle: folder of the bundle that it was made with.
        backend, threads: as for :func:`~img_deploy.runtime.predictor.load_bundle`.

    Raises:
        InputError: no index, damaged, or made by another network.
        BundleError, BackendError: as for ``load_bundle``.
    """
    predictor = load_bundle(bundle, backend, threads)
    return Library(predictor, VideoIndex.open(path, predictor.bundle, predictor.rules.text))


class Library:
    """Answers about the videos of an index. Safe to use from several threads at once."""

    def __init__(self, predictor: Predictor, index: VideoIndex) -> None:
        self.predictor, self.index = predictor, index

    def ask(
        self,
        queries: str | Sequence[str],
        videos: str | Iterable[str] | None = None,
        top_k: int = 1,
        nms: float = DEFAULT_NMS,
        batch_size: int = AskOptions.batch_size,
    ) -> Iterator[Answer]:
        """The moments of sentences in each video, video by video, as they are found.

        Args:
            queries: sentences, for bundles that take them.
            videos: only these, by id; all by default.
            top_k, nms, batch_size: as for :meth:`Predictor.ground`.

        Raises:
            QueryError: no sentence, an empty one, or sentences where the bundle takes token features.
            FeatureError: one of ``videos`` is not in the index.
            InputError: ``videos`` holds none, or something that is no text; another argument is out of range.
        """
        sentences = [as_text("queries", one) for one in (queries if many(queries) else [queries])]
        named = [videos] if isinstance(videos, str) else [] if videos is None else list(videos)
        vids = [as_text("videos", one) for one in named]
        if videos is not None and not vids:
            raise InputError("videos: got none, expected at least one; leave it out to ask all")
        options = AskOptions(at_least_one("top_k", top_k), as_share("nms", nms), at_least_one("batch_size", batch_size))
        for sentence in sentences:
            self.predictor.rules.query(sentence)
        request = Request(self.index.path, self.predictor.bundle.folder, options=options)
        plan = plan_queries(self.index, sentences, videos=vids)
        session = Session(request, self.index, plan, self.index.durations(), ThisProcess(self.predictor))
        return (answer for lot in session.answers() for answer in lot)

    def best(
        self, query: str, count: int = 10, videos: str | Iterable[str] | None = None, top_k: int = 1
    ) -> list[Answer]:
        """The best moments of a sentence in all videos, an answer of one moment each, best first.

        Ranked by :meth:`Answer.lift`. ``top_k``: most moments of one video. Raises as :meth:`ask` does.
        """
        ranking = BestMoments(at_least_one("count", count))
        if many(query):
            raise InputError("query: got several, expected one; ask them one by one")
        for answer in self.ask(query, videos, top_k):
            ranking.add([answer])
        return ranking.ranked()
