"""Words and their characters in one launch: a program per sample and block of words."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import STORAGE_DTYPES, Shapes, check_inputs, draw_inputs, padded
from img_deploy.kernels.tiles import load_vector, spread
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for
from img_deploy.kernels.word_embedding.reference import CHAR_CHANNELS, MIN_CHARS

CHANNELS = sum(CHAR_CHANNELS)
TAPS = tl.constexpr(MIN_CHARS)
# Channels before which each convolution ends: the first sees one character, the last four.
END1, END2, END3, END4 = tl.constexpr(10), tl.constexpr(30), tl.constexpr(60), tl.constexpr(100)


@triton.jit
def _of_width(channel, one, two, three, four):
    """Which of the four belongs to the convolution of each channel."""
    return tl.where(channel < END1, one, tl.where(channel < END2, two, tl.where(channel < END3, three, four)))


@triton.jit
def _kernel_tap(weight1_ptr, weight2_ptr, weight3_ptr, weight4_ptr, tap, letter, channel, LETTERS: tl.constexpr):
    """[letter, channel] weights of one tap of all four convolutions, 0 where a convolution is narrower."""
    first = _of_width(channel, 0, END1, END2, END3)
    width = _of_width(channel, 1, 2, 3, 4)
    row = ((channel - first)[None, :] * LETTERS + letter[:, None]) * width[None, :] + tap
    inside = (letter < LETTERS)[:, None] & ((channel < END4) & (tap < width))[None, :]
    base = _of_width(channel, weight1_ptr, weight2_ptr, weight3_ptr, weight4_ptr)
    return tl.load(base[None, :] + row, mask=inside, other=0.0)


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
    CHANNELS_PAD: tl.constexpr,
    ROWS: tl.constexpr,  # words of a program
    CHUNK: tl.constexpr,  # of the word vector at a time
):
    storage = word_vectors_ptr.dtype.element_ty
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_word = rows < words
    char_ids_ptr += sample * words * chars

    # The longest word of the sample, whichever block it is in.
    block = tl.arange(0, ROWS)
    longest = tl.full([], TAPS, tl.int32)
    for position in range(chars):
        seen = tl.zeros([ROWS], tl.int32)
        for start in range(0, words, ROWS):
            ids = tl.load(char_ids_ptr + (start + block) * chars + position, mask=start + block < words, other=0)
            seen = seen | (ids != 0).to(tl.int32)
        longest = tl.maximum(longest, tl.max(seen, axis=0) * (position + 1))

    letter = tl.arange(0, LETTERS_PAD)
    channel = tl.arange(0, CHANNELS_PAD)
    width = _of_width(channel, 1, 2, 3, 4)
    bias = tl.load(char1_bias_ptr + channel, mask=channel < END1, other=0.0).to(tl.float32)
    second, third, fourth = channel - END1, channel - END2, channel - END3
    bias += tl.load(char2_bias_ptr + second, mask=(second >= 0) & (channel < END2), other=0.0).to(tl.float32)
    bias += tl.load(char3_bias_ptr + third, mask=(third >= 0) & (channel < END3), other=0.0).to(tl.float32)
    bias += tl.load(char4_bias_ptr + fourth, mask=(fourth >= 0) & (channel < END4), other=0.0).to(tl.float32)
    pooled = tl.zeros([ROWS, CHANNELS_PAD], tl.float32)
    for position in range(longest):
        found = spread(bias, ROWS)
        for tap in range(TAPS):
            at = position + tap
            ids = tl.load(char_ids_ptr + rows * chars + at, mask=is_word & (at < chars), other=0)
            x = tl.load(
                char_table_ptr + ids[:, None] * LETTERS + letter[None, :],
                mask=(is_word & (at < chars))[:, None] & (letter < LETTERS)[None, :],
                other=0.0,
            )
            kernel = _kernel_tap(
                *(char1_weight_ptr, char2_weight_ptr, char3_weight_ptr, char4_weight_ptr),
                *(tap, letter, channel, LETTERS),
            )
            found = tl.dot(x, kernel, found, input_precision="ieee")
        inside = position + width <= longest
        pooled = tl.maximum(pooled, tl.where(inside[None, :], found, 0.0))

    column = tl.arange(0, WIDTH)
    is_column = column < DIM
    acc = spread(load_vector(bias_ptr, column, is_column), ROWS)
    unseen = tl.load(word_unknown_ptr + sample * words + rows, mask=is_word, other=0) != 0
    vectors = word_vectors_ptr + (sample * words + rows)[:, None] * VECTOR
    for start in range(0, VECTOR, CHUNK):
        entry = start + tl.arange(0, CHUNK)
        inside = is_word[:, None] & (entry < VECTOR)[None, :]
        x = tl.load(vectors + entry[None, :], mask=inside, other=0.0)
        x = x.to(tl.float32) + tl.where(unseen[:, None], load_vector(unknown_ptr, entry, entry < VECTOR)[None, :], 0.0)
        kernel = tl.load(
            weight_ptr + column[None, :] * (VECTOR + END4) + entry[:, None],
            mask=is_column[None, :] & (entry < VECTOR)[:, None],
            other=0.0,
        )
        acc = tl.dot(x.to(storage), kernel, acc, input_precision="ieee")
    kernel = tl.load(
        weight_ptr + column[None, :] * (VECTOR + END4) + VECTOR + channel[:, None],
        mask=is_column[None, :] & (channel < END4)[:, None],
        other=0.0,
    )
    acc = tl.dot(pooled.to(storage), kernel, acc, input_precision="ieee")
    out = out_ptr + (sample * words + rows)[:, None] * DIM + column[None, :]
    tl.store(out, acc.to(storage), mask=is_word[:, None] & is_column[None, :])


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
    grid = (batch, triton.cdiv(words, config.blocks["ROWS"]))
    word_embedding_kernel[grid](*inputs, words, inputs[2].shape[-1], out, **sizes, **config.launch_options())


def constants(dim: int, vector: int, letters: int) -> dict[str, Any]:
    """Of the kernel, beside its blocks."""
    pads = {"LETTERS_PAD": padded(letters), "CHANNELS_PAD": padded(CHANNELS)}
    return {"DIM": dim, "WIDTH": padded(dim), "VECTOR": vector, "LETTERS": letters, **pads}


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
        chunks = (16, 32) if dtype == torch.float32 else (32, 64)
        candidates = tuple(
            LaunchConfig(warps, 1, {"ROWS": 16, "CHUNK": chunk}) for warps in (8, 16) for chunk in chunks
        )
        yield TuningCall("rows", name, partial(_launch, inputs, out), candidates)
