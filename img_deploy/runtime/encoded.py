"""A query on its way, and what the encoders make of a video and of a query: computed once, asked many times."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.runtime.backends.protocol import Values, on_host
from img_deploy.text.vocabulary import EncodedWords

Floats = NDArray[np.floating]


@dataclass(eq=False, slots=True)  # frozen, it would take four times as long to make
class Query:
    """What is asked: a sentence, or token features that stand for one."""

    sentence: str
    """Empty where token features were given without it."""
    qid: int | None = None
    seconds: float | None = None
    """Duration of its video, where the row that it comes from tells it."""
    content: EncodedWords | NDArray[np.float32] | None = None
    """What the query encoder takes: words with their vectors, or token features [N, Dt]; None until it is looked up."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"query {self.sentence!r}" if self.sentence else f"query {self.qid}"


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """One video of L clips, independent of any query. Of use to the network that made it alone."""

    vid: str
    visual: Values
    """[L, D], where it was computed: a backend on a GPU reads it there."""
    audio: Values | None
    """[L, D]; None for a video without sound, which the visual head answers."""
    source_clips: int
    """Clips before down-sampling."""
    network: str = ""
    """:attr:`Bundle.identity` of the network that made it."""

    @property
    def clips(self) -> int:
        """L."""
        return int(self.visual.shape[0])

    @property
    def visual_clips(self) -> Floats:
        """[L, D], in host memory."""
        return on_host(self.visual)

    @property
    def audio_clips(self) -> Floats | None:
        """[L, D], in host memory; None for a video without sound."""
        return None if self.audio is None else on_host(self.audio)

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets what lies in host memory."""
        return {**self.__dict__, "visual": self.visual_clips, "audio": self.audio_clips}


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """One query of N words, independent of any video. Of use to the network that made it alone."""

    query: str
    """The sentence; empty where token features were given without it."""
    qid: int | None
    visual: Values
    """[N, D], where it was computed: a backend on a GPU reads it there."""
    audio: Values
    """[N, D]"""
    unknown: tuple[str, ...] = ()
    """Words that the vocabulary does not know, each once."""
    all_unknown: bool = False
    """True where no word is known: the answer then rests on the words' characters alone."""
    cut: int = 0
    """Words past the longest query that the network takes: left out, as in the paper's code."""
    network: str = ""
    """:attr:`Bundle.identity` of the network that made it."""

    @property
    def words(self) -> int:
        """N."""
        return int(self.visual.shape[0])

    @property
    def visual_words(self) -> Floats:
        """[N, D], in host memory."""
        return on_host(self.visual)

    @property
    def audio_words(self) -> Floats:
        """[N, D], in host memory."""
        return on_host(self.audio)

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets what lies in host memory."""
        return {**self.__dict__, "visual": self.visual_words, "audio": self.audio_words}
