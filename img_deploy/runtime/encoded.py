"""What the encoders make of a video and of a query: computed once, asked or answered many times."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from img_deploy.text.vocabulary import EncodedWords


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """One video of L clips, independent of any query. Only of use to the bundle that made it."""

    vid: str
    visual_clips: NDArray[np.floating]
    """[L, D]"""
    audio_clips: NDArray[np.floating] | None
    """[L, D]; None for a video without sound, which the visual head answers."""
    source_clips: int
    """Clips before down-sampling."""

    @property
    def clips(self) -> int:
        """L."""
        return len(self.visual_clips)


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """One query of N words, independent of any video. Only of use to the bundle that made it."""

    query: str
    """The sentence; empty where token features were given without it."""
    qid: int | None
    visual_words: NDArray[np.floating]
    """[N, D]"""
    audio_words: NDArray[np.floating]
    """[N, D]"""
    unknown: tuple[str, ...] = ()
    """Words that the vocabulary does not know, each once."""
    all_unknown: bool = False
    """True where no word is known: the answer then rests on the words' characters alone."""

    @property
    def words(self) -> int:
        """N."""
        return len(self.visual_words)


@dataclass(frozen=True, eq=False)
class PreparedQuery:
    """A query checked and made ready for the query encoder: words with their vectors, or token features."""

    query: str
    qid: int | None
    content: EncodedWords | NDArray[np.float32]
    """Token features are [N, Dt]."""

    @property
    def words(self) -> int:
        """N."""
        return len(self.content.word_vectors if isinstance(self.content, EncodedWords) else self.content)

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"query {self.query!r}" if self.query else f"query {self.qid}"

    @property
    def unknown(self) -> tuple[str, ...]:
        return self.content.unknown if isinstance(self.content, EncodedWords) else ()

    @property
    def all_unknown(self) -> bool:
        return isinstance(self.content, EncodedWords) and self.content.all_unknown
