"""A folder of features, read one video at a time: the datasets' own layouts and the plain one."""

import difflib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from img_deploy.errors import FeatureError
from img_deploy.features.checks import Where
from img_deploy.features.ids import known_spelling
from img_deploy.features.kinds import FeatureKind, audio_kind, text_kind, video_kind
from img_deploy.features.layouts import (
    AUDIO_HOMES,
    TEXT_HOMES,
    VIDEO_HOMES,
    Found,
    contents,
    find,
    hint,
    nothing_in,
    wanted_place,
)
from img_deploy.features.resample import Floats, align, downsample
from img_deploy.features.stores import ClipAndSlowFast, Store, TextFiles


@dataclass(frozen=True)
class VideoFeatures:
    """One video as the network takes it, L clips long."""

    vid: str
    """The id it was asked for by."""
    video: Floats
    """[L, Dv]"""
    audio: Floats | None
    """[L, Da], aligned to the video's clips; None for a video without sound."""
    source_clips: int
    """Clips in the file, before down-sampling."""


@dataclass(frozen=True)
class Wanted:
    """The kinds a model takes. ``audio`` None: sound is not read; ``text`` None: queries are plain sentences."""

    video: FeatureKind
    audio: FeatureKind | None
    text: FeatureKind | None
    max_clips: int


class FeatureFolder:
    """Features of many videos, made by :func:`open_folder`.

    Opening lists names, lengths come from headers, and ``load`` reads one video; nothing is kept, except
    ``VGGish.pickle``, which holds all videos in one file. Ids are accepted with and without their ``v_`` prefix,
    whichever way the files spell them. Safe to use from several threads.
    """

    def __init__(self, path: Path, wanted: Wanted, video: Store, audio: Store | None, text: TextFiles | None) -> None:
        self.path, self.wanted = path, wanted
        self._video, self._audio, self._text = video, audio, text

    def __len__(self) -> int:
        return len(self._video.ids())

    def videos(self) -> list[str]:
        """Ids of all videos, as their files spell them, in sorted order."""
        return list(self._video.ids())

    def __contains__(self, vid: str) -> bool:
        return known_spelling(vid, self._video.ids()) is not None

    def source_clips(self, vid: str) -> int:
        """Clips in a video's file, from its header. Raises FeatureError: unknown video, broken or empty file."""
        name = self._name(vid)
        clips = self._video.length(name)
        if not clips:
            raise FeatureError(f"{self.path}: got no clips for video {vid!r}, expected at least one")
        return clips

    def clips(self, vid: str) -> int:
        """L, the clips of a video after down-sampling, from its header. Raises FeatureError."""
        return min(self.source_clips(vid), self.wanted.max_clips)

    def has_audio(self, vid: str) -> bool:
        """Whether a video has a sound file with anything in it, from its header. Raises FeatureError."""
        name = self._audio_name(vid)
        return name is not None and self._audio is not None and self._audio.length(name) > 0

    def load(self, vid: str) -> VideoFeatures:
        """Reads one video: down-sampled to at most ``max_clips`` clips, its audio aligned to them.

        Raises:
            FeatureError: unknown video; or a file that is unreadable, empty, of another width or not finite.
        """
        source = self.source_clips(vid)
        limit = partial(downsample, limit=self.wanted.max_clips)
        video = self._video.load(self._name(vid), self.wanted.video.width, limit)
        audio = None
        name = self._audio_name(vid)
        if name is not None and self._audio is not None and self.wanted.audio and self._audio.length(name):
            audio = self._audio.load(name, self.wanted.audio.width, partial(align, clips=len(video)))
        return VideoFeatures(vid, video, audio, source)

    def load_text(self, qid: int) -> Floats:
        """Token features [N, Dt] of a query.

        ``qid`` must be of the numbering the features go by (:attr:`text_numbering`).

        Raises:
            FeatureError: the folder was opened without text features, or this query's are missing or broken.
        """
        if self._text is None or self.wanted.text is None:
            raise FeatureError(f"{self.path}: was opened without text features; say which kind is wanted")
        return self._text.read(qid, self.wanted.text.width)

    @property
    def text_numbering(self) -> Literal["txt", "jsonl"] | None:
        """The annotation files whose query ids the text features go by; None where no dataset says.

        The two numberings of Charades disagree on every test query: CLIP's features go by ``*_qid.txt``,
        LLaMA's by ``*_tvr_format.jsonl``.
        """
        if self._text is None:
            return None
        names: dict[str, Literal["txt", "jsonl"]] = {"text_features": "txt", "llama2_txt": "jsonl"}
        return names.get(self._text.folder.resolve().name)

    @property
    def notes(self) -> list[str]:
        """What a user should be told about this folder, a line each; empty where all is as expected."""
        notes = []
        if isinstance(self._video, ClipAndSlowFast) and (unpaired := self._video.unpaired()):
            notes.append(
                f"{self.path}: {len(unpaired)} videos have only one of CLIP and SlowFast and are left out, "
                f"e.g. {unpaired[0]}"
            )
        if self.wanted.audio is not None:
            silent = sum(self._audio_name(vid) is None for vid in self._video.ids())
            if silent:
                notes.append(
                    f"{self.path}: {silent} of {len(self)} videos have no sound features "
                    f"({self.wanted.audio}); the visual head answers for them"
                )
        return notes

    def _name(self, vid: str) -> str:
        ids = self._video.ids()
        name = known_spelling(vid, ids)
        if name is None:
            near = difflib.get_close_matches(vid, ids, n=3)
            raise FeatureError(
                f"{self.path}: no features for video {vid!r} among {len(ids)}; "
                + (f"did you mean {', '.join(near)}?" if near else "name one of the videos in this folder")
            )
        return name

    def _audio_name(self, vid: str) -> str | None:
        return None if self._audio is None else known_spelling(vid, self._audio.ids())


def open_folder(
    path: Where,
    video: FeatureKind,
    audio: FeatureKind | None,
    text: FeatureKind | None = None,
    max_clips: int | None = None,
    *,
    text_dir: Where | None = None,
) -> FeatureFolder:
    """Opens a dataset's feature folder (``data/features/charades``) or a plain one (``video/*.npy``, ``audio/*.npy``).

    Args:
        path: the folder; which layout it has is seen from what is in it and how wide it is.
        video: the visual kind wanted.
        audio: the audio kind wanted; None reads no sound.
        text: the kind of token features wanted; None for models that take plain sentences.
        max_clips: longest video in clips, the length of the model's positional table; None takes the kind's own.
        text_dir: a folder of token features (``qid_N.npy``, ``qidN.pt`` or ``N.npy``) to take instead of this
            folder's own.

    Returns:
        The folder. A folder without any sound is in order: all its videos count as silent (see its ``notes``).

    Raises:
        FeatureError: no such folder, or it lacks a kind that is wanted; says what was found, and all that is wrong.
    """
    root = Path(path)
    max_clips = video.max_clips if max_clips is None else max_clips
    if max_clips < 1:
        raise FeatureError(f"max_clips: got {max_clips}, expected at least 1")
    contents(root)  # raises where it is no folder
    videos = find(root, VIDEO_HOMES, video, video_kind)
    sounds = find(root, AUDIO_HOMES, audio, audio_kind) if audio else Found[Store](None, ())
    problems = []
    if videos.store is None:
        found = ", ".join(videos.others) or nothing_in(root, VIDEO_HOMES)
        problems.append(f"found {found}, wanted {video} in {wanted_place(VIDEO_HOMES, video)}")
    if audio and sounds.store is None and sounds.others:
        found = ", ".join(sounds.others)
        problems.append(f"found {found} as sound, wanted {audio} in {wanted_place(AUDIO_HOMES, audio)}")
    texts = _find_text(root, text, text_dir, problems) if text else None
    if videos.store is None or problems:
        unknown = videos.store is None and not videos.others
        advice = hint(root) if unknown else "give a folder of the wanted kinds or a model of the kinds found"
        raise FeatureError(f"{root}: {'; '.join(problems)}; {advice}")
    return FeatureFolder(root, Wanted(video, audio, text, max_clips), videos.store, sounds.store, texts)


def _find_text(root: Path, text: FeatureKind, text_dir: Where | None, problems: list[str]) -> TextFiles | None:
    if text_dir is None:
        texts = find(root, TEXT_HOMES, text, text_kind)
        if texts.store is None:
            found = ", ".join(texts.others) or "no text features"
            place = wanted_place(TEXT_HOMES, text)
            problems.append(f"found {found}, wanted {text} in {place} (or name their folder)")
        return texts.store
    store = TextFiles(Path(text_dir))
    width = store.width()
    if width is None:
        raise FeatureError(f"{text_dir}: found {contents(Path(text_dir))}, wanted {text} as qid_N.npy or qidN.pt")
    if width != text.width:
        raise FeatureError(f"{text_dir}: found {text_kind(width)}, wanted {text}; give features of that kind")
    return store
