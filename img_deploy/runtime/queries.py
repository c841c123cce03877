"""Who is asked what: the sentences of a command line or a file, laid out over the videos of a folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from img_deploy.annotations import QueryFile, read_query_file
from img_deploy.errors import AnnotationError, InputError, QueryError
from img_deploy.features.ids import by_video
from img_deploy.features.kinds import FeatureKind
from img_deploy.runtime.encoded import Query

if TYPE_CHECKING:
    from img_deploy.features.folders import FeatureFolder
    from img_deploy.runtime.index import VideoIndex


@dataclass(frozen=True)
class Plan:
    """The queries of each video, in the order in which they are answered."""

    videos: tuple[str, ...]
    shared: tuple[Query, ...] = ()
    """Asked of every video."""
    own: Mapping[str, tuple[Query, ...]] = field(default_factory=dict)
    """Asked of one video."""
    notes: tuple[str, ...] = ()
    """What a user should be told about it, a line each."""
    missing: int = 0
    """Queries left out: their video has no features, or the file's row is broken."""

    def queries(self, vid: str) -> tuple[Query, ...]:
        return self.shared or self.own.get(vid, ())

    def all_queries(self) -> Iterator[Query]:
        """Each query once, in the file's order within a video."""
        yield from self.shared
        for own in self.own.values():
            yield from own

    def __len__(self) -> int:
        """Pairs of a video and a query."""
        return len(self.videos) * len(self.shared) if self.shared else sum(len(self.queries(v)) for v in self.videos)


def plan_queries(
    library: "FeatureFolder | VideoIndex",
    queries: Sequence[str] = (),
    file: str | Path | None = None,
    videos: Sequence[str] = (),
) -> Plan:
    """The queries of a run.

    Args:
        library: the videos there are. Where it takes token features, queries are looked up by their ids.
        queries: sentences for every video.
        file: lines of plain text, for every video; or an annotation file, whose queries name their video. The
            annotated moments do not matter.
        videos: only these.

    Raises:
        QueryError: no queries, an empty one, or sentences where ids are needed.
        AnnotationError: the file cannot be understood, or goes by other ids than the token features.
        FeatureError: one of ``videos`` is not in the library.
        InputError: nothing is left to ask.
    """
    for vid in videos:
        library.source_clips(vid)  # raises where there is no such video, or its file is broken
    found = None if file is None else read_query_file(file)
    check_ids(queries, found, library.text)
    if found is None or found.format == "lines":
        sentences = [*queries, *(sample.query for sample in (found.samples if found else ()))]
        return _shared(sentences, list(dict.fromkeys(videos)) or library.videos())
    if queries:
        raise InputError(f"{file}: its queries name their videos, so --query cannot be mixed in; give one of the two")
    if library.text is not None:
        _check_numbering(library, str(file), found)
    return _own(library, str(file), found, set(videos))


def check_ids(queries: Sequence[str], file: QueryFile | None, text: FeatureKind | None) -> None:
    """Raises QueryError for sentences alone, where queries are looked up by their ids among ``text`` features."""
    if text is not None and (queries or file is None or file.format == "lines"):
        raise QueryError(
            f"queries: got sentences, expected queries with ids: this bundle takes {text} features, "
            "which are found by id; give --queries with a *_qid.txt or tvr jsonl file"
        )


def _shared(sentences: Sequence[str], videos: Sequence[str]) -> Plan:
    if not sentences:
        raise QueryError("queries: got none, expected at least one; give --query TEXT or --queries FILE")
    if empty := [sentence for sentence in sentences if not sentence.strip()]:
        raise QueryError(f"query {empty[0]!r}: got no words, expected a sentence; write what to look for")
    if not videos:
        raise InputError("videos: the folder has none")
    unique = tuple(map(Query, dict.fromkeys(sentences)))
    repeated = len(sentences) - len(unique)
    notes = (f"{repeated} repeated queries are asked once",) if repeated else ()
    return Plan(tuple(videos), shared=unique, notes=notes)


def _own(library: "FeatureFolder | VideoIndex", file: str, found: QueryFile, only: set[str]) -> Plan:
    notes = list(found.skipped)
    own: dict[str, list[Query]] = {}
    absent: dict[str, int] = {}
    for sample in found.samples:
        if only and by_video(dict.fromkeys(only, True), sample.vid) is None:
            continue
        if sample.vid not in library:
            absent[sample.vid] = absent.get(sample.vid, 0) + 1
            continue
        own.setdefault(sample.vid, []).append(Query(sample.query, sample.qid, sample.duration))
    missing = len(notes) + sum(absent.values())
    if absent:
        some = ", ".join(list(absent)[:3])
        notes.append(
            f"{file}: {sum(absent.values())} queries ask about {len(absent)} videos without features in "
            f"{library.path} ({some}{', ...' if len(absent) > 3 else ''})"
        )
    if not own:
        wanted = f" about {', '.join(sorted(only))}" if only else f" about the {len(library)} videos of {library.path}"
        why = f" ({notes[0]})" if notes else ""
        raise InputError(f"{file}: got no queries{wanted}{why}; give the file and the folder of the same dataset")
    return Plan(
        videos=tuple(own),
        own={vid: tuple(queries) for vid, queries in own.items()},
        notes=tuple(notes),
        missing=missing,
    )


def _check_numbering(library: "FeatureFolder | VideoIndex", file: str, found: QueryFile) -> None:
    if found.row_without_qid is not None:
        where = f"{file}:{found.row_without_qid}"
        raise AnnotationError(f"{where}: got no qid, expected one: token features are found by it")
    wanted = library.text_numbering
    if wanted is not None and found.format != wanted:
        names = {"txt": "*_qid.txt", "jsonl": "*_tvr_format.jsonl"}
        raise AnnotationError(
            f"{file}: got the query ids of {names.get(found.format, found.format)} files, expected those of "
            f"{names[wanted]}, which the {library.text} features go by; the two number the same queries "
            "differently"
        )
