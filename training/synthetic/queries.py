"""The queries of a synthetic dataset under every numbering, and the sidecar ``planted.json`` that explains them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from img_deploy.errors import AnnotationError, validation_problems
from img_deploy.training.synthetic.grammar import Category, sentence
from img_deploy.training.synthetic.scenes import Audio, Event, Scene, Task, stream

SIDECAR = "planted.json"
SCHEMA: Literal[1] = 1
DROPPED_ROWS = 4
"""Training rows that the jsonl form of Charades lacks; from there on its numbers fall behind those of the txt form."""

Numbering = Literal["txt", "tvr", "json"]


@dataclass(frozen=True)
class SyntheticQuery:
    """One query and what decides it."""

    task: Task
    split: str
    """train, test, or val_2 (activitynet)."""
    qids: dict[Numbering, int]
    """Charades: ``txt`` and, unless the row is missing there, ``tvr``; activitynet: ``json``."""
    vid: str
    query: str
    action: str
    category: Category
    sight: bool
    """Whether sight can answer: no other action of the video looks like it."""
    sound: bool
    """Whether sound can answer: the action makes one and the video's audio is real."""
    audio: Audio
    """The video's audio."""
    span: tuple[int, int]
    """First and last clip of the moment, inclusive."""
    window: tuple[float, float]
    """As annotated, in seconds; it may end past the video."""
    duration: float

    @property
    def cut_window(self) -> tuple[float, float]:
        """The window cut to the video."""
        return self.window[0], min(self.window[1], self.duration)

    @property
    def needs_sound(self) -> bool:
        """Whether sound alone decides."""
        return self.sound and not self.sight


@dataclass(frozen=True)
class SyntheticRecord:
    """Content of ``planted.json``."""

    config: dict[str, Any]
    queries: tuple[SyntheticQuery, ...]
    schema: Literal[1] = SCHEMA

    def by_qid(self, numbering: Numbering) -> dict[int, SyntheticQuery]:
        """Queries by their id in one numbering; rows that it lacks are left out."""
        return {query.qids[numbering]: query for query in self.queries if numbering in query.qids}


def charades_queries(scenes: Sequence[Scene], seed: int) -> list[SyntheticQuery]:
    """Training queries in mixed order, then test queries by video, numbered as the real files are.

    The txt form counts through; the jsonl form lacks a few training rows, so the two disagree on every test row.
    """
    train = [(scene, event) for scene in scenes if scene.split == "train" for event in scene.events]
    test = [(scene, event) for scene in scenes if scene.split == "test" for event in scene.events]
    random = stream(seed, "charades", "rows")
    rows = [train[k] for k in random.permutation(len(train))] + test
    agree = len(train) // 2  # the published forms agree up to the first missing row, too
    dropped = min(DROPPED_ROWS, len(train) - agree)
    missing = set((agree + random.choice(len(train) - agree, size=dropped, replace=False)).tolist())
    queries, tvr = [], 0
    for txt, (scene, event) in enumerate(rows):
        qids: dict[Numbering, int] = {"txt": txt}
        if txt not in missing:
            qids["tvr"] = tvr
            tvr += 1
        queries.append(_query("charades", scene.split, qids, scene, event, event.query))
    return queries


def activitynet_queries(scenes: Sequence[Scene], seed: int) -> list[SyntheticQuery]:
    """Training queries by video, then val_1 and val_2: the same test videos, worded twice, as in the real files."""
    queries: list[SyntheticQuery] = []

    def add(scene: Scene, event: Event, split: str, text: str) -> None:
        queries.append(_query("activitynet", split, {"json": len(queries)}, scene, event, text))

    for split in ("train", "test", "val_2"):
        for scene in scenes:
            if scene.split != ("test" if split == "val_2" else split):
                continue
            for k, event in enumerate(scene.events):
                random = stream(seed, "activitynet", "second wording", scene.vid, k)
                add(scene, event, split, sentence(event.action, random) if split == "val_2" else event.query)
    return queries


def sound_decided(queries: Iterable[SyntheticQuery]) -> list[SyntheticQuery]:
    """The test queries that sound alone decides: the counterpart of Charades-AudioMatter."""
    return [query for query in queries if query.split == "test" and query.needs_sound]


def write_record(folder: Path, config: Mapping[str, Any], queries: Iterable[SyntheticQuery]) -> None:
    """Write ``planted.json``, one query per line."""
    rows = ",\n".join(json.dumps(asdict(query)) for query in queries)
    head = json.dumps(config)
    (folder / SIDECAR).write_text(f'{{"schema": {SCHEMA},\n"config": {head},\n"queries": [\n{rows}\n]}}\n', "utf-8")


def read_synthetic(folder: Path) -> SyntheticRecord:
    """Read the sidecar of a synthetic dataset.

    Raises:
        AnnotationError: there is none, or it is not one of this program.
    """
    path = Path(folder) / SIDECAR
    try:
        return TypeAdapter(SyntheticRecord).validate_json(path.read_bytes())
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a synthetic dataset"
        ) from None
    except ValidationError as error:
        why = validation_problems(error)[:200]
        raise AnnotationError(f"{path}: not the record of a synthetic dataset ({why}); generate it again") from None


def with_noise(queries: Iterable[SyntheticQuery], vids: set[str]) -> list[SyntheticQuery]:
    """The queries after the audio of some videos became noise."""
    return [replace(query, audio="noise", sound=False) if query.vid in vids else query for query in queries]


def _query(task: Task, split: str, qids: dict[Numbering, int], scene: Scene, event: Event, text: str) -> SyntheticQuery:
    return SyntheticQuery(
        task,
        split,
        qids,
        scene.vid,
        text,
        event.action.name,
        event.action.category,
        event.sight,
        event.action.sound is not None and scene.audio == "real",
        scene.audio,
        (event.first, event.last),
        (event.start, event.end),
        scene.duration,
    )
