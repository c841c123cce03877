"""The actions, and the small grammar of the sentences that ask for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Category: TypeAlias = Literal["look_alike", "silent", "other"]


@dataclass(frozen=True)
class Action:
    """One action: what it is called, and which of its two prototypes it shares or lacks."""

    name: str
    category: Category
    verbs: tuple[str, ...]
    """Wordings of the verb phrase; two sentences of one action may differ in it."""
    object: str
    look: str
    """Key of the visual prototype; the two actions of a look-alike pair have one."""
    sound: str | None
    """Key of the sound prototype; None for a silent action."""


Phrase: TypeAlias = tuple[tuple[str, ...], str]

# Both phrases of a pair look the same. They share no word: telling such wordings apart is not what is tested.
LOOK_ALIKE_PAIRS: tuple[tuple[Phrase, Phrase], ...] = (
    ((("turns on", "is turning on"), "the radio"), (("starts", "is starting"), "a blender")),
    ((("whistles to", "is whistling to"), "the bird"), (("hums", "is humming"), "a melody")),
    ((("coughs into", "is coughing into"), "a sleeve"), (("sneezes behind", "is sneezing behind"), "the tissue")),
    ((("plays", "is playing"), "the piano"), (("types on", "is typing on"), "a keyboard")),
    ((("taps", "is tapping"), "the glass"), (("rings", "is ringing"), "a bell")),
    ((("shakes", "is shaking"), "the rattle"), (("jingles", "is jingling"), "some keys")),
)

SILENT_ACTIONS: tuple[Phrase, ...] = (
    (("reads", "is reading"), "a book"),
    (("looks into", "is looking into"), "the mirror"),
    (("folds", "is folding"), "a towel"),
    (("points at", "is pointing at"), "a picture"),
    (("hangs up", "is hanging up"), "a coat"),
    (("writes in", "is writing in"), "a notebook"),
    (("holds", "is holding"), "a pillow"),
    (("watches", "is watching"), "the garden"),
    (("puts on", "is putting on"), "a sweater"),
    (("waves at", "is waving at"), "a neighbor"),
)

OTHER_ACTIONS: tuple[Phrase, ...] = (
    (("vacuums", "is vacuuming"), "the carpet"),
    (("hammers", "is hammering"), "a nail"),
    (("washes", "is washing"), "the dishes"),
    (("strums", "is strumming"), "a guitar"),
    (("knocks on", "is knocking on"), "the door"),
    (("saws", "is sawing"), "a board"),
    (("bounces", "is bouncing"), "a ball"),
    (("pours", "is pouring"), "some water"),
    (("sweeps", "is sweeping"), "the floor"),
    (("claps with", "is clapping with"), "both hands"),
)

SUBJECTS = ("person", "a person", "the person", "someone", "a man", "a woman")
PLACES = ("in the kitchen", "by the stairs", "near the sofa", "in the hallway", "beside the zorblax")
"""The last one holds a word that is in no GloVe file, as some annotated words are."""
UNKNOWN_WORD = "zorblax"

SYNONYMS = (
    ("radio", "stereo", "tuner"),
    ("blender", "mixer"),
    ("bird", "parrot", "canary"),
    ("melody", "tune", "song"),
    ("sleeve", "elbow"),
    ("tissue", "handkerchief"),
    ("piano", "pianoforte"),
    ("keyboard", "typewriter"),
    ("glass", "goblet"),
    ("bell", "gong"),
    ("rattle", "maraca"),
    ("keys", "keychain"),
    ("turns", "turning", "flips"),
    ("starts", "starting", "runs"),
    ("whistles", "whistling", "whistled"),
    ("hums", "humming", "hummed"),
    ("coughs", "coughing", "coughed"),
    ("sneezes", "sneezing", "sneezed"),
    ("plays", "playing", "performs"),
    ("types", "typing", "typed"),
    ("taps", "tapping", "tapped"),
    ("rings", "ringing", "rang"),
    ("shakes", "shaking", "jiggles"),
    ("jingles", "jingling", "jangles"),
    ("reads", "reading", "studies"),
    ("looks", "looking", "gazes", "peers"),
    ("folds", "folding", "folded"),
    ("points", "pointing", "gestures"),
    ("hangs", "hanging", "hung"),
    ("writes", "writing", "scribbles"),
    ("holds", "holding", "grips"),
    ("watches", "watching", "observes"),
    ("puts", "putting", "places"),
    ("waves", "waving", "beckons"),
    ("vacuums", "vacuuming", "hoovers"),
    ("hammers", "hammering", "pounds"),
    ("washes", "washing", "rinses"),
    ("strums", "strumming", "plucks"),
    ("knocks", "knocking", "raps"),
    ("saws", "sawing", "cuts"),
    ("bounces", "bouncing", "dribbles"),
    ("pours", "pouring", "spills"),
    ("sweeps", "sweeping", "brushes"),
    ("claps", "clapping", "applauds"),
    ("book", "novel"),
    ("mirror", "reflection"),
    ("towel", "cloth"),
    ("picture", "photo", "painting"),
    ("coat", "jacket"),
    ("notebook", "diary", "journal"),
    ("pillow", "cushion"),
    ("garden", "yard"),
    ("sweater", "pullover"),
    ("carpet", "rug"),
    ("dishes", "plates"),
    ("guitar", "ukulele"),
    ("board", "plank"),
    ("hand", "hands", "palm"),
    ("person", "someone", "somebody", "individual"),
    ("man", "guy", "boy"),
    ("woman", "lady", "girl"),
    ("kitchen", "kitchenette"),
    ("hallway", "corridor"),
    ("sofa", "couch"),
    ("stairs", "staircase"),
)
"""Words near each other in the word vectors. Some never occur in a sentence: a query can still use them."""

FILLER = ("window", "table", "laptop", "phone", "shoes", "bed", "cup", "camera", "light", "box", "walks", "sits", ",")
"""Words of the GloVe-like file that mean nothing here."""


def build_actions(pairs: int, silent: int, other: int) -> list[Action]:
    """The first so many of each table, look-alike pairs first (two neighbours each)."""
    actions = []
    for k, pair in enumerate(LOOK_ALIKE_PAIRS[:pairs]):
        actions += [_action("look_alike", phrase, look=f"pair {k}") for phrase in pair]
    actions += [_action("silent", phrase) for phrase in SILENT_ACTIONS[:silent]]
    actions += [_action("other", phrase) for phrase in OTHER_ACTIONS[:other]]
    return actions


def sentence(action: Action, random: "np.random.Generator") -> str:
    """``SUBJECT VERB OBJECT [PLACE].``, each part drawn; lower case, as Charades-STA has it."""
    words = [
        SUBJECTS[random.integers(len(SUBJECTS))],
        action.verbs[random.integers(len(action.verbs))],
        action.object,
    ]
    place = random.integers(3 * len(PLACES))  # a third of the sentences name a place
    if place < len(PLACES):
        words.append(PLACES[place])
    return " ".join(words) + "."


def words_of(text: str) -> list[str]:
    """Words of a generated sentence as NLTK's tokenizer gives them: there is no punctuation but the full stop."""
    return [*text.removesuffix(".").split(), "."]


def lexicon() -> list[str]:
    """Every word of the grammar, its synonyms and the filler, each once; without the unknown one."""
    phrases = [phrase for pair in LOOK_ALIKE_PAIRS for phrase in pair] + [*SILENT_ACTIONS, *OTHER_ACTIONS]
    texts: Iterable[str] = (
        *SUBJECTS,
        *PLACES,
        *(text for verbs, thing in phrases for text in (*verbs, thing)),
        *(word for group in SYNONYMS for word in group),
        *FILLER,
    )
    words = dict.fromkeys([".", *(word for text in texts for word in text.split())])
    return [word for word in words if word != UNKNOWN_WORD]


def _action(category: Category, phrase: Phrase, look: str | None = None) -> Action:
    verbs, thing = phrase
    name = f"{verbs[0]} {thing}"
    return Action(name, category, verbs, thing, look or name, None if category == "silent" else name)
