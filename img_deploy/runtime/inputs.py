"""What a bundle takes: kinds, widths and limits, and holding videos and queries to them."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from img_deploy.errors import BundleError, FeatureError, InputError, QueryError
from img_deploy.features.kinds import PLAIN, FeatureKind, kind_named
from img_deploy.features.prepare import prepare_tokens, prepare_video
from img_deploy.features.resample import Floats
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import PreparedQuery
from img_deploy.text.tokens import tokenize
from img_deploy.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class InputRules:
    """The inputs of one bundle. ``text`` is None where queries are sentences, which need ``vocabulary``."""

    video: FeatureKind
    audio: FeatureKind
    text: FeatureKind | None
    vocabulary: Vocabulary | None
    max_clips: int
    max_words: int
    max_chars: int

    def clips(self, video: ArrayLike, audio: ArrayLike | None, where: str) -> tuple[Floats, Floats | None, int]:
        """Features as the network takes them.

        Args:
            video: [T, Dv]; more than ``max_clips`` clips are down-sampled.
            audio: [Ta, Da], aligned to the video's clips; None without sound.
            where: what to call the video in an error.

        Returns:
            [L, Dv] float32, [L, Da] float32 or None, and T.

        Raises:
            FeatureError: wrong number of axes or width, no clips, NaN or Inf.
        """
        prepared = prepare_video(where, video, audio, self.video, self.audio, self.max_clips)
        return prepared.video, prepared.audio, prepared.source_clips

    def query(self, text: "str | ArrayLike", qid: int | None = None, query: str = "") -> PreparedQuery:
        """A sentence as words with their vectors, or token features [N, Dt] as they are, checked.

        Raises:
            QueryError: empty, too long, or a sentence where token features are wanted (or the other way).
            FeatureError: token features of another width, or not finite.
        """
        if isinstance(text, str):
            return self._sentence(text, qid)
        if self.text is None:
            raise QueryError(f"query {query!r}: got an array, expected a sentence; this bundle takes plain text")
        where = f"query {qid if qid is not None else query!r}: token features"
        return PreparedQuery(query, qid, prepare_tokens(where, text, self.text, self.max_words))

    def _sentence(self, sentence: str, qid: int | None) -> PreparedQuery:
        if self.vocabulary is None:
            raise QueryError(
                f"query {sentence[:40]!r}: got a sentence, expected its token features: this bundle was trained on "
                f"{self.text}, which come from a language model it does not hold; extract them and ask by query id"
            )
        words = tokenize(sentence, self.max_words, self.max_chars)
        return PreparedQuery(sentence, qid, self.vocabulary.encode(words))


def input_rules(bundle: Bundle) -> InputRules:
    """The rules of a bundle. Raises BundleError where the parts of the bundle do not fit each other."""
    manifest, config = bundle.manifest, bundle.manifest.model
    tokens = config.variant == "tokens"
    limits = manifest.limits
    problems = []
    if limits["clips"] > config.max_clips:
        problems.append(f"limit of {limits['clips']} clips, but the network takes {config.max_clips}")
    vocabulary = None if tokens else bundle.vocabulary()
    if vocabulary is None and not tokens:
        problems.append("no vocabulary, which its variant needs")
    if vocabulary is not None and (vocabulary.char_table_size, vocabulary.vectors.shape[1]) != (
        config.chars,
        config.text_dim,
    ):
        problems.append(
            f"vocabulary of {vocabulary.char_table_size} characters and width {vocabulary.vectors.shape[1]}, "
            f"but the network takes {config.chars} and {config.text_dim}"
        )

    def kind(stream: str, width: int) -> FeatureKind:
        entry = manifest.features.get(stream)
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.get("width") != width:
            problems.append(f"{stream} features {entry}, but the network takes width {width}")
            return kind_named(PLAIN, width)
        try:
            return kind_named(entry["name"], width)
        except FeatureError as error:
            problems.append(str(error))
            return kind_named(PLAIN, width)

    rules = InputRules(
        video=kind("video", config.video_dim),
        audio=kind("audio", config.audio_dim),
        text=kind("text", config.text_dim) if tokens else None,
        vocabulary=vocabulary,
        max_clips=limits["clips"],
        max_words=limits["words"],
        max_chars=limits["chars"],
    )
    if problems:
        raise BundleError(f"{bundle.folder}: {'; '.join(problems)}; export the bundle again")
    return rules


def many(value: Any) -> bool:
    """Whether an argument holds several items (a list or tuple) or is one."""
    return isinstance(value, list | tuple)


def one_each(name: str, value: Any, count: int) -> list[Any]:
    """``value`` per item: a list of as many, or one for all. Raises InputError for another count."""
    if not many(value):
        return [value] * count
    if len(value) != count:
        raise InputError(f"{name}: got {len(value)}, expected {count}, one for each")
    return list(value)
