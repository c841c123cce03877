"""Words and their characters in one launch: a program per word."""

from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import STORAGE_DTYPES, Shapes, check_inputs, draw_inputs, padded
from img_deploy.kernels.tiles import load_vector, spread
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for
from img_deploy.kernels.word_embedding.reference import CHAR_CHANNELS, CHAR_WIDTHS

CHANNELS = sum(CHAR_CHANNELS)
TAPS, OUT = tl.constexpr(CHAR_WIDTHS), tl.constexpr(CHAR_CHANNELS)
"""Of each convolution."""
BEFORE = tl.constexpr((0, *accumulate(CHAR_CHANNELS)))
"""Channels of the convolutions before each."""
CONVOLUTIONS, WIDEST = tl.constexpr(len(CHAR_WIDTHS)), tl.constexpr(max(CHAR_WIDTHS))
POSITIONS = tl.constexpr(16)
"""Characters at a time: the rows of a product."""
VECTOR_CHUNK = tl.constexpr(64)
"""Entries of the word vector at a time."""


@triton.jit
def _longest_word(char_ids_ptr, words, chars):
    """Characters of the longest of a sample's words, at least ``WIDEST``."""
    BLOCK: tl.constexpr = 1024
    longest = tl.full([BLOCK], WIDEST, tl.int32)
    for start in range(0, words * chars, BLOCK):
        at = start + tl.arange(0, BLOCK)
        ids = tl.load(char_ids_ptr + at, mask=at < words * chars, other=0)
        longest = tl.maximum(longest, tl.where(ids != 0, at % chars + 1, 0))
    return tl.max(longest, axis=0)


@triton.jit
def _largest_windows(
    char_ids_ptr,  # of one word, [W]
    char_table_ptr,
    weight_ptr,  # [OUT, E, TAPS]
    bias_ptr,
    chars,
    longest,
    LETTERS: tl.constexpr,
    LETTERS_PAD: tl.constexpr,
    TAPS: tl.constexpr,
    OUT: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Maximum over a word's windows of ReLU(convolution), float32, 0 from ``OUT`` on.

    One product: its rows are the windows, and its sum goes over letters and taps in the order of the weights, so that
    these are read as they lie in memory.
    """
    ENTRIES: tl.constexpr = LETTERS * TAPS
    OUT_PAD: tl.constexpr = max(16, triton.next_power_of_2(OUT))
    SUM: tl.constexpr = min(CHUNK, LETTERS_PAD * triton.next_power_of_2(TAPS))
    channel = tl.arange(0, OUT_PAD)
    bias = load_vector(bias_ptr, channel, channel < OUT)
    largest = tl.zeros([OUT_PAD], tl.float32)
    for start in range(0, longest, POSITIONS):
        position = start + tl.arange(0, POSITIONS)
        found = spread(bias, POSITIONS)
        for first in range(0, ENTRIES, SUM):
            entry = first + tl.arange(0, SUM)
            at = position[:, None] + (entry % TAPS)[None, :]
            present = (at < chars) & (entry < ENTRIES)[None, :]
            ids = tl.load(char_ids_ptr + at, mask=present, other=0).to(tl.int32)
            x = tl.load(char_table_ptr + ids * LETTERS + (entry // TAPS)[None, :], mask=present, other=0.0)
            inside = (channel < OUT)[None, :] & (entry < ENTRIES)[:, None]
            weight = tl.load(weight_ptr + channel[None, :] * ENTRIES + entry[:, None], mask=inside, other=0.0)
            found = tl.dot(x, weight, found, input_precision="ieee")
        inside = position + TAPS <= longest
        largest = tl.maximum(largest, tl.max(tl.where(inside[:, None], found, 0.0), axis=0))
    return largest


@triton.jit(do_not_specialize=["words", "chars"])
def word_embedding_kernel(
    word_vectors_ptr,  # [B, N, V]
    word_unknown_ptr,  # [B, N] bool
    char_ids_ptr,  # [B, N, W] int64
    unknown_ptr,  # [V]
    char_table_ptr,  # [C, E]
    char1_weight_ptr,  # [10, E, 1]
    char2_weight_ptr,  # [20, E, 2]
    char3_weight_ptr,  # [30, E, 3]
    char4_weight_ptr,  # [40, E, 4]
    char1_bias_ptr,
    char2_bias_ptr,
    char3_bias_ptr,
    char4_bias_ptr,
    weight_ptr,  # [D, V + 100]
    bias_ptr,  # [D]
    words,  # N
    chars,  # W
    out_ptr,  # [B, N, D]
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    VECTOR: tl.constexpr,  # V
    LETTERS: tl.constexpr,  # E
    LETTERS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,  # of a convolution's letters and taps at a time
):
    storage = word_vectors_ptr.dtype.element_ty
    sample = tl.program_id(0).to(tl.int64)
    word = sample * words + tl.program_id(1)
    column = tl.arange(0, WIDTH)
    is_column = column < DIM
    row = weight_ptr + column[:, None] * (VECTOR + BEFORE[CONVOLUTIONS])

    unseen = tl.load(word_unknown_ptr + word) != 0
    products = tl.zeros([WIDTH, VECTOR_CHUNK], tl.float32)
    for start in tl.static_range(0, VECTOR, VECTOR_CHUNK):
        entry = start + tl.arange(0, VECTOR_CHUNK)
        x = load_vector(word_vectors_ptr + word * VECTOR, entry, entry < VECTOR)
        x += tl.where(unseen, load_vector(unknown_ptr, entry, entry < VECTOR), 0.0)
        weight = tl.load(row + entry[None, :], mask=is_column[:, None] & (entry < VECTOR)[None, :], other=0.0)
        products += weight.to(tl.float32) * x.to(storage).to(tl.float32)[None, :]
    acc = load_vector(bias_ptr, column, is_column) + tl.sum(products, axis=1)

    longest = _longest_word(char_ids_ptr + sample * words * chars, words, chars)
    weights = (char1_weight_ptr, char2_weight_ptr, char3_weight_ptr, char4_weight_ptr)
    biases = (char1_bias_ptr, char2_bias_ptr, char3_bias_ptr, char4_bias_ptr)
    for k in tl.static_range(CONVOLUTIONS):
        largest = _largest_windows(
            *(char_ids_ptr + word * chars, char_table_ptr, weights[k], biases[k], chars, longest),
            *(LETTERS, LETTERS_PAD, TAPS[k], OUT[k], CHUNK),
        )
        channel = tl.arange(0, largest.shape[0])
        inside = is_column[:, None] & (channel < OUT[k])[None, :]
        weight = tl.load(row + VECTOR + BEFORE[k] + channel[None, :], mask=inside, other=0.0)
        # Rounded before anything is added: threads that share the sum of a row then agree on it.
        product = tl.fma(weight.to(tl.float32), spread(largest, WIDTH), tl.zeros(weight.shape, tl.float32))
        acc += tl.sum(product, axis=1)
    tl.store(out_ptr + word * DIM + column, acc.to(storage), mask=is_column)


def shapes(batch: int, words: int, vector: int, table: int, letters: int, dim: int) -> Shapes:
    """Without ``char_ids`` [batch, words, chars], which are int64."""
    kernels = {f"char{k}_weight": (out, letters, k) for k, out in enumerate(CHAR_CHANNELS, 1)}
    return {
        "word_vectors": (batch, words, vector),
        "word_unknown_mask": (batch, words),
        "unknown": (vector,),
        "char_table": (table, letters),
        **kernels,
        **{f"char{k}_bias": (out,) for k, out in enumerate(CHAR_CHANNELS, 1)},
        "weight": (dim, vector + CHANNELS),
        "bias": (dim,),
    }


def word_embedding(word_vectors: Tensor, word_unknown: Tensor, char_ids: Tensor, *weights: Tensor) -> Tensor:
    """[B, N, D]. Arguments, in order: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    batch, words, _ = char_ids.shape
    table, letters = weights[1].shape
    dim, vector = weights[-2].shape[0], word_vectors.shape[-1]
    if char_ids.dtype != torch.int64 or not char_ids.is_contiguous():
        raise ValueError(f"word_embedding: char_ids: got {char_ids.dtype}, expected int64 without gaps")
    expected = shapes(batch, words, vector, table, letters, dim)
    check_inputs("word_embedding", expected, (word_vectors, word_unknown, *weights))
    out = torch.empty(batch, words, dim, dtype=word_vectors.dtype, device=word_vectors.device)
    if out.numel():
        config = config_for("word_embedding", "rows", out.dtype, out.device)
        _launch((word_vectors, word_unknown, char_ids, *weights), out, config)
    return out


def _launch(inputs: tuple[Tensor, ...], out: Tensor, config: LaunchConfig) -> None:
    batch, words, dim = out.shape
    sizes = constants(dim, inputs[0].shape[-1], inputs[4].shape[-1])
    word_embedding_kernel[(batch, words)](*inputs, words, inputs[2].shape[-1], out, **sizes, **config.launch_options())


def constants(dim: int, vector: int, letters: int) -> dict[str, Any]:
    """Of the kernel, beside its blocks."""
    return {
        "DIM": dim,
        "WIDTH": padded(dim),
        "VECTOR": vector,
        "LETTERS": letters,
        "LETTERS_PAD": padded(letters),
    }


AOT_CASES = (
    AotCase(
        "word_embedding",
        "rows",
        word_embedding_kernel,
        constants(128, 300, 50),
        {"word_unknown_ptr": "i1", "char_ids_ptr": "i64"},
    ),
)


def tuning_calls() -> Iterator[TuningCall]:
    """One query of 16 words."""
    for name, dtype in STORAGE_DTYPES.items():
        vectors, unknown, *weights = draw_inputs(shapes(1, 16, 300, 60, 50, 128), dtype)
        inputs = (vectors, unknown, torch.randint(1, 60, (1, 16, 12), device="cuda"), *weights)
        out = torch.empty(1, 16, 128, dtype=dtype, device="cuda")
        chunks = (16, 32) if dtype == torch.float32 else (64, 256)
        candidates = tuple(LaunchConfig(warps, 1, {"CHUNK": chunk}) for warps in (4, 8, 16) for chunk in chunks)
        yield TuningCall("rows", name, partial(_launch, inputs, out), candidates)
