"""The vocabulary of a run of the paper's code, out of its pickled dataset."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from img_deploy.errors import CheckpointError, InputError
from img_deploy.features.safe_pickle import load_plain
from img_deploy.text.vocabulary import Vocabulary


def read_vocabulary(dataset: str | os.PathLike[str] | None, tensors: dict[str, Tensor], path: Path) -> Vocabulary:
    """The vocabulary of a run's pickled dataset, held to the run's own word and character tables.

    Raises:
        CheckpointError: no dataset, not one of the paper's code, or that of another run.
        FeatureError: not readable as a pickle of plain values; nothing that it holds is run.
    """
    if dataset is None:
        raise CheckpointError(
            f"{path}: this run embeds words, and its vocabulary is in a pickled dataset; "
            "pass --dataset datasets/<task>_<features>_<maxlen>.pkl"
        )
    content = load_plain(dataset)
    for key in ("word_dict", "char_dict", "word_vector"):
        if key not in content:
            raise CheckpointError(f"{dataset}: missing {key}, expected the reference's pickled dataset")
    words = _by_id(content["word_dict"], f"{dataset}: word_dict")
    chars = _by_id(content["char_dict"], f"{dataset}: char_dict")
    try:
        vectors = np.ascontiguousarray(content["word_vector"], dtype=np.float32)
    except (ValueError, TypeError):
        raise CheckpointError(f"{dataset}: word_vector is not a matrix of numbers; wrong dataset") from None
    for m in "va":
        name = f"word_embedding{m}.word_emb.glove_vec"
        if name not in tensors:
            raise CheckpointError(f"{path}: missing tensor {name}")
        table = tensors[name]
        if tuple(table.shape) != vectors.shape:
            raise CheckpointError(
                f"{dataset}: word_vector is {vectors.shape}, the run's word table {tuple(table.shape)}; wrong dataset"
            )
        # In the table's own precision: a run may have been saved in half.
        if not torch.allclose(table.float(), torch.tensor(vectors).to(table.dtype).float(), atol=1e-6):
            raise CheckpointError(f"{dataset}: word_vector differs from the run's word table; wrong dataset")
    if len(words) != len(vectors):
        raise CheckpointError(f"{dataset}: {len(words)} words but {len(vectors)} word vectors")
    expected = tensors["word_embeddingv.char_emb.char_emb.weight"].shape[0] - 2
    if len(chars) != expected:
        raise CheckpointError(f"{dataset}: {len(chars)} characters, the run's table has {expected}; wrong dataset")
    try:
        return Vocabulary(words, vectors, chars)
    except InputError as error:
        raise CheckpointError(f"{dataset}: {error}") from None


def _by_id(ids: Any, where: str) -> list[str]:
    """Names in the order of their ids, without pad (0) and unknown (1)."""
    whole = isinstance(ids, dict) and all(type(number) is int for number in ids.values())
    if not whole or sorted(ids.values()) != list(range(len(ids))):
        raise CheckpointError(f"{where}: expected ids 0..n-1, each once")
    return [name for name, number in sorted(ids.items(), key=lambda item: item[1]) if number >= 2]
