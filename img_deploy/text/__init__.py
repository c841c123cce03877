"""Sentences to network inputs: words, vocabulary, GloVe files."""

from img_deploy.text.glove import GloveRows, read_glove
from img_deploy.text.tokens import MAX_CHARS, MAX_WORDS, tokenize
from img_deploy.text.vocabulary import EncodedWords, Vocabulary, build_vocabulary

__all__ = [
    "MAX_CHARS",
    "MAX_WORDS",
    "EncodedWords",
    "GloveRows",
    "Vocabulary",
    "build_vocabulary",
    "read_glove",
    "tokenize",
]
