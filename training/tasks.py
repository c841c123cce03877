"""The three tasks: which annotation files, features and constants each one means, in the layout users have."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from img_deploy.annotations import Sample, read_samples
from img_deploy.durations import read_durations
from img_deploy.errors import AnnotationError, ConfigError
from img_deploy.features.kinds import FeatureKind, kind_named, kind_of_width, kinds_of
from img_deploy.training.constants import SplitName, TaskName, wrong_features

TASKS: tuple[TaskName, ...] = get_args(TaskName)
FEATURES = tuple(kind.name for kind in kinds_of("video"))

GLOVE_FILE = "glove.840B.300d.txt"
_AUDIOMATTER_TVR = (
    "charades_audiomatter_test_tvr_format.jsonl",
    "charades_audiomatter_tvr_format.jsonl",
    "charades_audiomatterhao_tvr_format.json",
)
"""The one file under the three names it has in the wild."""
_TXT: dict[str, tuple[str, ...]] = {"train": ("charades_sta_train_qid.txt",), "test": ("charades_sta_test_qid.txt",)}
_TVR: dict[str, tuple[str, ...]] = {
    "train": ("charades_sta_train_tvr_format.jsonl",),
    "test": ("charades_sta_test_tvr_format.jsonl",),
}
_FILES: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("charades", "txt"): _TXT,
    ("charades", "jsonl"): _TVR,
    ("charadesAM", "txt"): {**_TXT, "test": ("charades_audiomatter_qid.txt",)},
    ("charadesAM", "jsonl"): {**_TVR, "test": _AUDIOMATTER_TVR},
    ("activitynet", "json"): {"train": ("train_qid.json",), "test": ("val_1_qid.json",), "val_2": ("val_2_qid.json",)},
}


@dataclass(frozen=True)
class Task:
    """One task on one kind of features, under one data folder."""

    name: TaskName
    features: str
    """One of ``FEATURES``."""
    data: Path
    video: FeatureKind
    audio: FeatureKind
    text: FeatureKind | None
    """The token features of its queries; None where no encoder's features go with the task."""

    @property
    def numbering(self) -> Literal["txt", "jsonl", "json"]:
        """Which files its query ids come from: those that the text features beside its video features go by."""
        tokens = None if self.name == "activitynet" else kind_named(self.features).tokens
        return (tokens and kind_named(tokens).numbering) or "json"

    @property
    def dataset(self) -> Path:
        return self.data / "dataset" / _folder(self.name)

    @property
    def feature_folder(self) -> Path:
        return self.data / "features" / _folder(self.name)

    @property
    def glove(self) -> Path:
        return self.data / "features" / GLOVE_FILE

    @property
    def text_home(self) -> Path | None:
        """Where its token features lie, if there are any."""
        return None if self.text is None else (self.feature_folder / self.text.files[0]).parent

    def file(self, split: SplitName) -> Path:
        """The annotation file of a split. Raises AnnotationError where it is not there."""
        names = _FILES[self.name, self.numbering].get(split)
        if names is None:
            raise AnnotationError(f"{self.name}: got split {split!r}, expected train or test")
        return _first(self.dataset, names)

    def read(self, split: SplitName, skipped: list[str] | None = None) -> list[Sample]:
        """Queries of a split, each with its duration and one window inside its video.

        Args:
            skipped: takes a line about every row without a usable sentence, moment or duration, which is left out;
                where None such a row is an error.
        Raises:
            AnnotationError: a file is missing or malformed, or no row is usable.
        """
        path = self.file(split)
        durations = read_durations(_first(self.dataset, ("charades.json",))) if self.numbering == "txt" else None
        samples = read_samples(path, durations, skipped)
        kept = [sample for sample in samples if sample.windows and sample.duration is not None]
        bare = [
            f"{path}:{sample.row}: query {sample.qid} has no moment or no duration; give annotated queries"
            for sample in samples
            if not sample.windows or sample.duration is None
        ]
        if bare and (skipped is None or not kept):
            raise AnnotationError(bare[0])
        if skipped is not None:
            skipped += bare
        return kept

    def submission_ids(self, samples: Iterable[Sample]) -> dict[int, int]:
        """The id of each test query in the numbering that submissions carry, by the id it has here.

        For Charades that is the jsonl's. Its rows are found by video and sentence (rows that share both, by their
        order), since the two numberings disagree on every test row.

        Raises:
            AnnotationError: the jsonl file is missing, or lacks a query.
        """
        if self.numbering != "txt":
            return {sample.qid: sample.qid for sample in samples}
        path = _first(self.dataset, _TVR["test"])
        published = _by_occurrence(read_samples(path, skipped=[]))
        # Counted over the whole test set: Charades-AudioMatter is a part of it.
        whole = replace(self, name="charades").read("test", skipped=[])
        occurrence = {qid: key for key, qid in _by_occurrence(whole).items()}
        ids = {}
        for sample in samples:
            key = occurrence.get(sample.qid, (sample.vid, _normal(sample.query), 0))
            if key not in published:
                raise AnnotationError(
                    f"{path}: has no row for query {sample.qid} of {self.file('test')} ({sample.vid}: "
                    f"{sample.query!r}); give the two files of one dataset"
                )
            ids[sample.qid] = published[key]
        return ids


def open_task(
    name: str, features: str, data: str | Path, video_width: int | None = None, audio_width: int | None = None
) -> Task:
    """A task under a data folder.

    Args:
        data: holds ``dataset/`` and ``features/``.
        video_width, audio_width: of features narrower or wider than the kind's own (generated sets).
    Raises:
        ConfigError: no such task, kind or combination. AnnotationError: ``data`` holds no such dataset.
    """
    problems = []
    if name not in TASKS:
        problems.append(f"task is {name!r}, expected one of {', '.join(TASKS)}")
    if features not in FEATURES:
        problems.append(f"features are {features!r}, expected one of {', '.join(FEATURES)}")
    elif problem := wrong_features(name, features):
        problems.append(problem)
    if problems:
        raise ConfigError("; ".join(problems))
    root = Path(data)
    if not (root / "dataset" / _folder(name)).is_dir():
        meant = next((place for place in (root / "data", root.parent) if (place / "dataset").is_dir()), None)
        hint = f"did you mean {meant}?" if meant else "`img-deploy synth` writes one to try"
        raise AnnotationError(
            f"{root}: got no dataset/{_folder(name)}, expected a folder with dataset/ and features/; {hint}"
        )
    kind = kind_named(features)
    video = kind if video_width is None else replace(kind_of_width("video", video_width), max_clips=kind.max_clips)
    usual = kind_named("vggish" if name == "activitynet" else "panns")
    audio = usual if audio_width is None else kind_of_width("audio", audio_width)
    text = None if name == "activitynet" or kind.tokens is None else kind_named(kind.tokens)
    return Task(name, features, root, video, audio, text)  # type: ignore[arg-type]


def _folder(name: str) -> str:
    return "activitynet" if name == "activitynet" else "charades"


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise AnnotationError(f"{folder}: got no {' or '.join(names)}, expected it there; put the annotation file back")


def _normal(sentence: str) -> str:
    return " ".join(sentence.lower().split())


def _by_occurrence(samples: Iterable[Sample]) -> dict[tuple[str, str, int], int]:
    """Query ids by video, sentence, and how many rows with the same two come before."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for sample in sorted(samples, key=lambda sample: sample.qid):
        key = sample.vid, _normal(sample.query)
        found[*key, seen[key]] = sample.qid
        seen[key] += 1
    return found
