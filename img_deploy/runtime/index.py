"""A library of encoded videos: written once, asked any number of times. A Lance dataset, a row per video.

Rows are found by id; of all of them only ids and lengths are held. The dataset's metadata names the network that made
them, so that another network never takes them for its own.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from img_deploy.errors import FeatureError, InputError, is_utf8, one_line
from img_deploy.features.folders import TextFolder, text_files
from img_deploy.features.ids import known_spelling
from img_deploy.features.kinds import FeatureKind
from img_deploy.features.paths import is_remote, plain
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import EncodedVideo

if TYPE_CHECKING:
    import lance
    import pyarrow

KEY = b"img-deploy"
SCHEMA = 1
Store = Literal["fp32", "fp16"]
LIGHT = ("vid", "clips", "source_clips", "has_audio", "duration", "fingerprint", "digest")
"""Columns that are held of every video; the others are read for those that are asked."""


@dataclass(frozen=True)
class IndexFacts:
    """What an index says of itself."""

    network: str
    """:attr:`Bundle.identity` of the network that encoded it."""
    store: Store
    """What its values are rounded to."""
    dim: int
    features: dict[str, Any]
    """Kinds of the features that were encoded, as the bundle names them."""
    schema: int = SCHEMA

    def refusal(self, video: EncodedVideo) -> FeatureError | None:
        """Why an encoding cannot be kept; None where it can."""
        if not is_utf8(video.vid):
            return FeatureError(f"{video.vid!r}: got an id that is no UTF-8 text; rename its files")
        for values in (video.visual_clips, video.audio_clips):
            if self.store == "fp16" and values is not None and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                return FeatureError(f"{video.vid}: its encoding has values beyond fp16; index with --store fp32")
        return None


@dataclass(frozen=True)
class IndexedVideo:
    """What is held of a video."""

    vid: str
    clips: int
    source_clips: int
    has_audio: bool
    duration: float | None
    """Seconds, where a file told it."""
    fingerprint: str
    """Of its feature files: where it is another, the features are read and compared."""
    digest: str
    """Of its features as the network takes them."""


def lance_module() -> Any:
    """The ``lance`` package. Raises InputError where it is not installed."""
    try:
        import lance
    except ImportError:
        raise InputError("an index needs Lance: pip install 'img-deploy[index]'") from None
    return lance


def why(error: Exception) -> str:
    """What Lance says, without the place in its source."""
    return one_line(re.sub(r", \S+\.rs:\d+:\d+", "", str(error)), 160)


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an index, or of another Lance dataset. Needs no Lance for a local one."""
    text = plain(path)
    if is_remote(text):
        try:
            lance_module().dataset(text)
        except (InputError, ValueError, OSError):
            return False
        return True
    return (Path(text) / "_versions").is_dir()


class VideoIndex(TextFolder):
    """An opened index; the counterpart of a :class:`~img_deploy.features.FeatureFolder` whose videos are encoded."""

    def __init__(
        self,
        path: str,
        dataset: "lance.LanceDataset",
        facts: IndexFacts,
        text: FeatureKind | None = None,
        text_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(path, None if text is None or text_dir is None else text_files(text_dir, text), text)
        self.dataset, self.facts = dataset, facts
        rows = dataset.to_table(columns=list(LIGHT)).to_pylist()
        self._videos = {row["vid"]: IndexedVideo(**row) for row in rows}
        self._rows = {row["vid"]: number for number, row in enumerate(rows)}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        bundle: Bundle,
        text: FeatureKind | None = None,
        text_dir: str | os.PathLike[str] | None = None,
    ) -> "VideoIndex":
        """Open the last version that is whole.

        Args:
            bundle: whose network has to have made it.
            text, text_dir: kind and folder of the queries' token features, for bundles that take them.

        Raises:
            InputError: no index, damaged, newer than this program, or made by another network than the bundle's.
        """
        place = plain(path)
        if not is_remote(place) and not is_index(place):
            raise InputError(f"{place}: got no index, expected one; `img-deploy index FEATURES --out INDEX` makes it")
        try:
            dataset = lance_module().dataset(place)
            facts = _facts(dataset, place)
            if facts.network != bundle.identity:
                raise InputError(
                    f"{place}: was made with another bundle's network than {bundle.folder}; index the features again, "
                    "or give the bundle it was made with"
                )
            return cls(place, dataset, facts, text, text_dir)
        except (ValueError, OSError) as error:
            raise InputError(f"{place}: cannot be opened as an index ({why(error)})") from None

    def __len__(self) -> int:
        return len(self._videos)

    def __contains__(self, vid: str) -> bool:
        return known_spelling(vid, self._videos) is not None

    def videos(self) -> list[str]:
        """Ids of all videos, sorted."""
        return sorted(self._videos)

    @property
    def is_latest(self) -> bool:
        """Whether nobody has written to it, or made it anew, since it was opened."""
        try:
            return _state(lance_module().dataset(plain(self.path))) == _state(self.dataset)
        except (ValueError, OSError):
            return False

    def entry(self, vid: str) -> IndexedVideo:
        """What is held of a video. Raises FeatureError: there is none of that id."""
        name = known_spelling(vid, self._videos)
        if name is None:
            near = difflib.get_close_matches(vid, self._videos, n=3)
            advice = f"did you mean {', '.join(near)}?" if near else "name one of the videos in this index"
            raise FeatureError(f"{self.path}: no video {vid!r} among {len(self)}; {advice}")
        return self._videos[name]

    def source_clips(self, vid: str) -> int:
        """Clips before down-sampling. Raises FeatureError."""
        return self.entry(vid).source_clips

    def clips(self, vid: str) -> int:
        """L. Raises FeatureError."""
        return self.entry(vid).clips

    def has_audio(self, vid: str) -> bool:
        """Raises FeatureError."""
        return self.entry(vid).has_audio

    def fingerprint(self, vid: str) -> str:
        """What tells a video's encoding from that of changed features. Raises FeatureError."""
        return self.entry(vid).digest

    def durations(self) -> dict[str, float]:
        """Seconds by video id, of those that are known."""
        return {vid: entry.duration for vid, entry in self._videos.items() if entry.duration is not None}

    @property
    def notes(self) -> list[str]:
        """What a user should know about it, a line each."""
        silent = sum(not entry.has_audio for entry in self._videos.values())
        notes = [f"{self.path}: {len(self)} videos, {self.facts.store}, version {self.dataset.version}"]
        if silent:
            notes.append(f"{self.path}: {silent} of {len(self)} videos have no sound; the visual head answers for them")
        return notes

    def encoded(self, vids: Sequence[str]) -> list[EncodedVideo]:
        """The encodings of some videos, float32, under the ids they are asked for by. Raises FeatureError."""
        names = [self.entry(vid).vid for vid in vids]
        order = sorted(range(len(names)), key=lambda at: self._rows[names[at]])
        try:
            table = self.dataset.take([self._rows[names[at]] for at in order], columns=["visual", "audio"])
        except (ValueError, OSError) as error:
            raise FeatureError(
                f"{self.path}: cannot be read ({why(error)}); ask again if it was renewed meanwhile, else index the "
                "features anew"
            ) from None
        streams = [_arrays(table.column(name), self.facts.dim) for name in ("visual", "audio")]
        found: dict[int, EncodedVideo] = {}
        for at, visual, audio in zip(order, *streams, strict=True):
            assert visual is not None
            entry = self._videos[names[at]]
            found[at] = EncodedVideo(vids[at], visual, audio, entry.source_clips, self.facts.network)
        return [found[at] for at in range(len(vids))]


def _state(dataset: "lance.LanceDataset") -> tuple[int, list[str]]:
    """Version and first file: versions of an index that is made anew count from 1 again."""
    return dataset.version, [file.path for part in dataset.get_fragments()[:1] for file in part.data_files()]


def _arrays(column: "pyarrow.ChunkedArray", dim: int) -> list[Any]:
    """[L, D] float32 of each row; None where it is null."""
    return [None if cell is None else cell.reshape(-1, dim).astype(np.float32) for cell in _cells(column)]


def _cells(column: "pyarrow.ChunkedArray") -> Iterable[Any]:
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        ends = chunk.offsets.to_numpy()
        for row, valid in enumerate(chunk.is_valid().to_pylist()):
            yield values[ends[row] : ends[row + 1]] if valid else None


def _facts(dataset: "lance.LanceDataset", path: str) -> IndexFacts:
    content = (dataset.schema.metadata or {}).get(KEY)
    try:
        facts = IndexFacts(**json.loads(content or b""))
    except (ValueError, TypeError):
        raise InputError(f"{path}: is a Lance dataset, but no index of this program; give another path") from None
    if facts.schema > SCHEMA:
        raise InputError(f"{path}: got schema {facts.schema}, this program reads up to {SCHEMA}; update it")
    return facts


def schema_of(facts: IndexFacts) -> "pyarrow.Schema":
    """Columns and metadata of an index."""
    import pyarrow

    values = pyarrow.list_(pyarrow.float16() if facts.store == "fp16" else pyarrow.float32())
    columns = {
        "vid": pyarrow.string(),
        "clips": pyarrow.int32(),
        "source_clips": pyarrow.int32(),
        "has_audio": pyarrow.bool_(),
        "duration": pyarrow.float64(),
        "fingerprint": pyarrow.string(),
        "digest": pyarrow.string(),
        "visual": values,
        "audio": values,
    }
    return pyarrow.schema(list(columns.items()), metadata={KEY: json.dumps(asdict(facts)).encode()})


def table_of(facts: IndexFacts, rows: Sequence[tuple[IndexedVideo, EncodedVideo]]) -> "pyarrow.Table":
    """Rows of an index."""
    import pyarrow

    schema, dtype = schema_of(facts), np.float16 if facts.store == "fp16" else np.float32
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for entry, encoded in rows:
        for name in LIGHT:
            columns[name].append(getattr(entry, name))
        for name, values in (("visual", encoded.visual_clips), ("audio", encoded.audio_clips)):
            columns[name].append(None if values is None else values.ravel().astype(dtype))
    return pyarrow.table(columns, schema=schema)


def facts_of(bundle: Bundle, store: Store) -> IndexFacts:
    """Of a new index for a bundle."""
    manifest = bundle.manifest
    return IndexFacts(bundle.identity, store, manifest.model.dim, dict(manifest.features))
