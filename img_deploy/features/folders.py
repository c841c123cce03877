"""A folder of features, read one video at a time: the datasets' own layouts and the plain one."""

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from img_deploy.errors import FeatureError
from img_deploy.features.checks import Where
from img_deploy.features.ids import known_spelling
from img_deploy.features.kinds import FeatureKind, kind_of_width, kinds_of
from img_deploy.features.layouts import (
    Found,
    contents,
    existing_folders,
    find,
    hint,
    nothing_in,
    unread,
    wanted_place,
)
from img_deploy.features.paths import each, identity, path_of
from img_deploy.features.prepare import VideoFeatures, prepare_parts, prepare_tokens
from img_deploy.features.resample import Floats
from img_deploy.features.stores import ArrayFileParts, PickledArrays, Store, TextFiles


@dataclass(frozen=True)
class Wanted:
    """The kinds a model takes. ``audio`` None: sound is not read; ``text`` None: queries are plain sentences."""

    video: FeatureKind
    audio: FeatureKind | None
    text: FeatureKind | None
    max_clips: int


class TextFolder:
    """Token features of queries, by query id. ``path`` is what messages call it."""

    def __init__(self, path: Where, files: TextFiles | None, kind: FeatureKind | None) -> None:
        self.path = path_of(path)
        self.text, self._text = kind, files

    def load_text(self, qid: int, max_words: int | None = None) -> Floats:
        """Token features [N, Dt] of a query; of more than ``max_words`` tokens the first are taken.

        ``qid`` must be of the numbering the features go by (:attr:`text_numbering`).

        Raises:
            FeatureError: it was opened without text features, or this query's are missing or broken.
        """
        texts, kind = self._texts()
        source = texts.read(qid)
        return prepare_tokens(source.where, source.values, kind, max_words)

    def text_fingerprint(self, qid: int) -> str:
        """As :meth:`fingerprint`, of a query's token features. Raises FeatureError: there are none."""
        return _fingerprint([self._texts()[0].file(qid)])

    @property
    def text_numbering(self) -> Literal["txt", "jsonl"] | None:
        """The annotation files whose query ids the text features go by; None where no dataset says.

        The two numberings of Charades disagree on every test query: CLIP's features go by ``*_qid.txt``,
        LLaMA's by ``*_tvr_format.jsonl``.
        """
        if self._text is None:
            return None
        home = self._text.folder.resolve().name
        known = {os.path.basename(os.path.dirname(kind.files[0])): kind.numbering for kind in kinds_of("text")}
        return known.get(home)

    def _texts(self) -> tuple[TextFiles, FeatureKind]:
        if self._text is None or self.text is None:
            raise FeatureError(f"{self.path}: was opened without text features; say which kind is wanted")
        return self._text, self.text


class FeatureFolder(TextFolder):
    """Features of many videos, made by :func:`open_folder`.

    Opening lists names, lengths come from headers, and ``load`` reads one video; nothing is kept, except
    ``VGGish.pickle``, which holds all videos in one file. Ids are accepted in every spelling of
    :func:`~img_deploy.features.ids.known_spelling`. Safe to use from several threads.
    """

    def __init__(self, path: Path, wanted: Wanted, video: Store, audio: Store | None, text: TextFiles | None) -> None:
        super().__init__(path, text, wanted.text)
        self.wanted = wanted
        self._video, self._audio = video, audio

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
        self.source_clips(vid)  # raises where there are none
        video = self._video.read(self._name(vid))
        audio = None
        name = self._audio_name(vid)
        if name is not None and self._audio is not None and self._audio.length(name):
            [audio] = self._audio.read(name)
        wanted = self.wanted
        return prepare_parts(vid, video, audio, wanted.video, wanted.audio, wanted.max_clips)

    def load_each(self, vids: Sequence[str]) -> Iterator[VideoFeatures | FeatureError]:
        """:meth:`load` of some videos, in order; what cannot be read gives its error. Fetches several at a time."""
        return each(self._loaded, vids, self.path)

    def _loaded(self, vid: str) -> VideoFeatures | FeatureError:
        try:
            return self.load(vid)
        except FeatureError as error:
            return error

    def fingerprint(self, vid: str) -> str:
        """Which files are behind a video, video and sound, as 64 hexadecimal digits; no content is read.

        It changes when one of them is written, replaced or taken away, also by a file of the same size and time.
        Raises FeatureError: unknown video.
        """
        files = self._video.files(self._name(vid))
        name = self._audio_name(vid)
        if name is not None and self._audio is not None:
            files = [*files, *self._audio.files(name)]
        return _fingerprint(files)

    @property
    def notes(self) -> list[str]:
        """What a user should be told about this folder, a line each; empty where all is as expected."""
        notes = []
        unpaired: list[Path] = []
        if isinstance(self._video, ArrayFileParts) and (unpaired := self._video.unpaired()):
            notes.append(
                f"{self.path}: {len(unpaired)} files of {self.wanted.video} have no counterpart in the other folder "
                f"and are left out, e.g. {unpaired[0].relative_to(self.path)}"
            )
        read = {path for name in self._video.ids() for path in self._video.files(name)}
        if spare := unread(self._video.folders(), read.union(unpaired)):
            shown = spare[0].relative_to(self.path)
            notes.append(f"{self.path}: {len(spare)} files beside the video features are not read, e.g. {shown}")
        return notes + ([] if self.wanted.audio is None else self._notes_on_sound(self.wanted.audio))

    def _notes_on_sound(self, kind: FeatureKind) -> list[str]:
        """Which videos have no sound, and which sound files are there and belong to none of them."""
        names = [self._audio_name(vid) for vid in self._video.ids()]
        silent, used = names.count(None), {name for name in names if name is not None}
        folders, read, spare = existing_folders(self.path, "audio"), set[Path](), list[str]()
        if self._audio is not None:
            folders = self._audio.folders()
            read = {path for name in used for path in self._audio.files(name)}
            if isinstance(self._audio, PickledArrays):
                spare = [f"{self._audio.path.name}[{name}]" for name in self._audio.ids() if name not in used]
        spare += [str(path.relative_to(self.path)) for path in unread(folders, read)]
        if spare and silent == len(names):
            example = next(iter(self._video.ids()), "VID")
            return [
                f"{self.path}: {len(spare)} sound files are there, but none belongs to one of the {silent} videos "
                f"(e.g. {spare[0]}, expected audio/{example}.npy): no sound is used, the visual head answers"
            ]
        notes = []
        if not folders and (link := self.path / "audio").is_symlink():
            notes.append(f"{link}: a link to {os.readlink(link)}, where there is nothing")
        if silent:
            notes.append(
                f"{self.path}: {silent} of {len(names)} videos have no sound features ({kind}); "
                "the visual head answers for them"
            )
        if spare:
            notes.append(f"{self.path}: {len(spare)} sound files belong to none of its videos, e.g. {spare[0]}")
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


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(identity(file).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


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
        path: the folder, or its URL; which layout it has is seen from what is in it and how wide it is.
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
    root = path_of(path)
    max_clips = video.max_clips if max_clips is None else max_clips
    if max_clips < 1:
        raise FeatureError(f"max_clips: got {max_clips}, expected at least 1")
    contents(root)  # raises where it is no folder
    videos = find(root, "video", video)
    sounds = find(root, "audio", audio) if audio else Found()
    problems = []
    if videos.store is None:
        found = ", ".join(videos.others) or nothing_in(root, "video")
        problems.append(f"found {found}, wanted {video} in {wanted_place('video', video)}")
    if audio and sounds.store is None and sounds.others:
        found = ", ".join(sounds.others)
        problems.append(f"found {found} as sound, wanted {audio} in {wanted_place('audio', audio)}")
    texts = _find_text(root, text, text_dir, problems) if text else None
    if videos.store is None or problems:
        unknown = videos.store is None and not videos.others
        advice = hint(root) if unknown else "give a folder of the wanted kinds or a model of the kinds found"
        raise FeatureError(f"{root}: {'; '.join(problems)}; {advice}")
    return FeatureFolder(root, Wanted(video, audio, text, max_clips), videos.store, sounds.store, texts)


def _find_text(root: Path, text: FeatureKind, text_dir: Where | None, problems: list[str]) -> TextFiles | None:
    if text_dir is None:
        texts = find(root, "text", text)
        if texts.store is None:
            found = ", ".join(texts.others) or "no text features"
            place = wanted_place("text", text)
            problems.append(f"found {found}, wanted {text} in {place} (or name their folder)")
        return texts.store
    return text_files(text_dir, text)


def text_files(text_dir: Where, text: FeatureKind) -> TextFiles:
    """The token features in a folder, of one kind. Raises FeatureError: none, or of another width."""
    store = TextFiles(path_of(text_dir))
    width = store.width()
    if width is None:
        raise FeatureError(f"{text_dir}: found {contents(path_of(text_dir))}, wanted {text} as qid_N.npy or qidN.pt")
    if width != text.width:
        raise FeatureError(
            f"{text_dir}: found {kind_of_width('text', width)}, wanted {text}; give features of that kind"
        )
    return store
