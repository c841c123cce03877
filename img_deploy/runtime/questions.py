"""Who is asked what: the sentences of a command line or a file, laid out over the videos of a folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from img_deploy.annotations import annotation_format, read_queries, read_query_file
from img_deploy.errors import AnnotationError, InputError, QueryError
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.ids import by_video
from img_deploy.features.kinds import FeatureKind


@dataclass(frozen=True)
class Question:
    """One query; ``qid`` where a file gives one."""

    query: str
    qid: int | None = None


@dataclass(frozen=True)
class Plan:
    """The questions of each video, in the order in which they are answered."""

    videos: tuple[str, ...]
    shared: tuple[Question, ...] = ()
    """Asked of every video."""
    own: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    """Asked of one video."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Durations that the queries' file tells, by video id."""
    notes: tuple[str, ...] = ()
    """What a user should be told about it, a line each."""
    missing: int = 0
    """Queries left out: their video has no features, or the file's row is broken."""

    def questions(self, vid: str) -> tuple[Question, ...]:
        return self.shared or self.own.get(vid, ())

    def __iter__(self) -> Iterator[tuple[str, Question]]:
        return ((vid, question) for vid in self.videos for question in self.questions(vid))

    def __len__(self) -> int:
        """Pairs of a video and a query."""
        return len(self.videos) * len(self.shared) if self.shared else sum(len(self.questions(v)) for v in self.videos)


def plan_questions(
    folder: FeatureFolder,
    queries: Sequence[str] = (),
    file: str | Path | None = None,
    videos: Sequence[str] = (),
    by_id: bool = False,
) -> Plan:
    """The questions of a run.

    Args:
        folder: the videos there are.
        queries: sentences for every video.
        file: lines of plain text, for every video; or an annotation file, whose queries name their video.
        videos: only these.
        by_id: queries are looked up by their ids (token features), so a sentence alone is of no use.

    Raises:
        QueryError: no queries, an empty one, or sentences where ids are needed.
        AnnotationError: the file cannot be understood, or goes by other ids than the folder's text features.
        FeatureError: one of ``videos`` is not in the folder.
        InputError: nothing is left to ask.
    """
    chosen = _chosen(folder, videos)
    kind = None if file is None else annotation_format(file)
    if kind in ("txt", "jsonl", "activitynet") and queries:
        raise InputError(f"{file}: its queries name their videos, so --query cannot be mixed in; give one of the two")
    if by_id:
        check_ids(queries, file, folder.wanted.text)
    if kind in (None, "lines"):
        sentences = [*queries, *(read_queries(file) if file is not None else ())]
        return _shared(sentences, chosen if videos else folder.videos())
    if by_id:
        _check_numbering(folder, str(file), kind or "")
    return _own(folder, str(file), set(chosen) if videos else None)


def check_ids(queries: Sequence[str], file: str | Path | None, text: FeatureKind | None) -> None:
    """Raises QueryError for sentences alone, where queries are looked up by their ids among ``text`` features."""
    if queries or file is None or annotation_format(file) == "lines":
        raise QueryError(
            f"queries: got sentences, expected queries with ids: this bundle takes {text} features, "
            "which are found by id; give --queries with a *_qid.txt or tvr jsonl file"
        )


def _chosen(folder: FeatureFolder, videos: Sequence[str]) -> list[str]:
    for vid in videos:
        folder.source_clips(vid)  # raises where there is no such video, or its file is broken
    return list(dict.fromkeys(videos))


def _shared(sentences: Sequence[str], videos: Sequence[str]) -> Plan:
    if not sentences:
        raise QueryError("queries: got none, expected at least one; give --query TEXT or --queries FILE")
    if empty := [sentence for sentence in sentences if not sentence.strip()]:
        raise QueryError(f"query {empty[0]!r}: got no words, expected a sentence; write what to look for")
    unique = tuple(Question(sentence) for sentence in dict.fromkeys(sentences))
    if not videos:
        raise InputError("videos: the folder has none")
    repeated = len(sentences) - len(unique)
    notes = (f"{repeated} repeated queries are asked once",) if repeated else ()
    return Plan(tuple(videos), shared=unique, notes=notes)


def _own(folder: FeatureFolder, file: str, only: set[str] | None) -> Plan:
    own: dict[str, list[Question]] = {}
    seconds: dict[str, float] = {}
    absent: dict[str, int] = {}
    content = read_query_file(file)
    notes = list(content.skipped)
    for sample in content.samples:
        if only is not None and by_video(dict.fromkeys(only, True), sample.vid) is None:
            continue
        if sample.vid not in folder:
            absent[sample.vid] = absent.get(sample.vid, 0) + 1
            continue
        own.setdefault(sample.vid, []).append(Question(sample.query, sample.qid))
        if sample.duration is not None:
            seconds.setdefault(sample.vid, sample.duration)
    missing = len(notes) + sum(absent.values())
    if absent:
        some = ", ".join(list(absent)[:3])
        notes.append(
            f"{file}: {sum(absent.values())} queries ask about {len(absent)} videos without features in "
            f"{folder.path} ({some}{', ...' if len(absent) > 3 else ''})"
        )
    if not own:
        wanted = f" about {', '.join(sorted(only))}" if only else f" about the {len(folder)} videos of {folder.path}"
        raise InputError(f"{file}: got no queries{wanted}; give the file and the folder of the same dataset")
    return Plan(
        videos=tuple(own),
        own={vid: tuple(questions) for vid, questions in own.items()},
        seconds=seconds,
        notes=tuple(notes),
        missing=missing,
    )


def _check_numbering(folder: FeatureFolder, file: str, kind: str) -> None:
    if (row := read_query_file(file).row_without_qid) is not None:
        raise AnnotationError(f"{file}:{row}: got no qid, expected one: token features are found by it")
    wanted = folder.text_numbering
    if wanted is not None and kind != wanted:
        names = {"txt": "*_qid.txt", "jsonl": "*_tvr_format.jsonl"}
        raise AnnotationError(
            f"{file}: got the query ids of {names.get(kind, kind)} files, expected those of {names[wanted]}, which "
            f"the {folder.wanted.text} features go by; the two number the same queries differently"
        )
