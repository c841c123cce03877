"""Context-query attention and query concatenation in one launch, one program per sample and block of clips."""

from collections.abc import Iterator, Sequence

import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, calls_of, launch_over_rows, run_over_rows
from img_deploy.kernels.query_attention import reference
from img_deploy.kernels.tiles import (
    MASKED,
    attention_pool,
    channels,
    linear,
    load_mask,
    load_rows,
    load_vector,
    mask_scores,
    store_rows,
    vector_linear,
)
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall

SAFE_IN_FP16 = tl.constexpr(reference.SAFE_IN_FP16)


@triton.jit
def _trilinear(
    clips_ptr,
    words_ptr,
    weight_ptr,
    product_weight_ptr,
    rows,
    word,
    clips,
    words,
    ALONG: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Scores between the clips ``rows`` and the words ``word``, float32 [ROWS, WORDS], for a softmax along the clips or
    the words. What is the same for all of them has no part in it: of the two sums with a weight of their own, the one
    over ``ALONG`` is left, as part of the product."""
    STEP: tl.constexpr = min(CHUNK, WIDTH)
    storage = clips_ptr.dtype.element_ty
    scores = tl.zeros([rows.shape[0], word.shape[0]], tl.float32)
    for start in range(0, WIDTH, STEP):
        channel, real = channels(start + tl.arange(0, STEP), DIM, 1, WIDTH)
        clip = load_rows(clips_ptr, rows, clips, channel, real, DIM)
        query = load_rows(words_ptr, word, words, channel, real, DIM)
        product, own = load_vector(product_weight_ptr, channel, real), load_vector(weight_ptr, channel, real)
        if ALONG == "clips":
            query = (query.to(tl.float32) * product[None, :] + own[None, :]).to(storage)
        else:
            clip = (clip.to(tl.float32) * product[None, :] + own[None, :]).to(storage)
        scores = tl.dot(clip, tl.trans(query), scores, input_precision="ieee")
    return scores


@triton.jit(do_not_specialize=["clips", "words"])
def query_attention_kernel(
    clips_ptr,  # [B, L, D]
    words_ptr,  # [B, N, D]
    clip_mask_ptr,  # [B, L] bool
    word_mask_ptr,  # [B, N] bool
    clip_weight_ptr,  # [D]
    word_weight_ptr,  # [D]
    product_weight_ptr,  # [D]
    attention_weight_ptr,  # [D, 4D]
    attention_bias_ptr,  # [D]
    pool_weight_ptr,  # [D]
    concat_weight_ptr,  # [D, 2D]
    concat_bias_ptr,  # [D]
    clips,  # L
    words,  # N
    out_ptr,  # [B, L, D]
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CLIPS: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    storage = clips_ptr.dtype.element_ty
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    clips_ptr += sample * clips * DIM
    words_ptr += sample * words * DIM
    clip_mask_ptr += sample * clips
    word_mask_ptr += sample * words
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)

    best = tl.full([ROWS], MASKED, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    c2q = tl.zeros([ROWS, WIDTH], tl.float32)
    q2c = tl.zeros([ROWS, WIDTH], tl.float32)
    for first_word in range(0, words, WORDS):
        word = first_word + tl.arange(0, WORDS)
        # Down the column of each word: a softmax over all clips, and the clips under it.
        column_best = tl.full([WORDS], MASKED, tl.float32)
        column_total = tl.zeros([WORDS], tl.float32)
        gathered = tl.zeros([WORDS, WIDTH], tl.float32)
        for first_clip in range(0, clips, CLIPS):
            clip = first_clip + tl.arange(0, CLIPS)
            scores = _trilinear(
                *(clips_ptr, words_ptr, clip_weight_ptr, product_weight_ptr),
                *(clip, word, clips, words, "clips", DIM, WIDTH, CHUNK),
            )  # [CLIPS, WORDS]
            keep = load_mask(clip_mask_ptr, clip, clips)
            scores = mask_scores(scores, keep[:, None], (clip < clips)[:, None])
            higher = tl.maximum(column_best, tl.max(scores, axis=0))
            shrink = tl.exp(column_best - higher)
            shares = tl.exp(scores - higher[None, :])
            column_total = column_total * shrink + tl.sum(shares, axis=0)
            tile = load_rows(clips_ptr, clip, clips, channel, real, DIM)
            gathered = tl.dot(tl.trans(shares).to(storage), tile, gathered * shrink[:, None], input_precision="ieee")
            column_best = higher
        gathered = (gathered / column_total[:, None]).to(storage)

        # Along the row of each clip: a softmax over all words, and the words and gathered clips under it.
        scores = _trilinear(
            *(clips_ptr, words_ptr, word_weight_ptr, product_weight_ptr),
            *(rows, word, clips, words, "words", DIM, WIDTH, CHUNK),
        )  # [ROWS, WORDS]
        keep = load_mask(word_mask_ptr, word, words)
        scores = mask_scores(scores, keep[None, :], (word < words)[None, :])
        higher = tl.maximum(best, tl.max(scores, axis=1))
        shrink = tl.exp(best - higher)
        shares = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(shares, axis=1)
        shares = shares.to(storage)
        tile = load_rows(words_ptr, word, words, channel, real, DIM)
        c2q = tl.dot(shares, tile, c2q * shrink[:, None], input_precision="ieee")
        q2c = tl.dot(shares, gathered, q2c * shrink[:, None], input_precision="ieee")
        best = higher
    c2q = c2q / total[:, None]
    q2c = q2c / total[:, None]

    clip = load_rows(clips_ptr, rows, clips, channel, real, DIM).to(tl.float32)
    shrink = tl.full([ROWS], 1.0, tl.float32)
    if storage == tl.float16:  # a product of clips may leave its range: such a row is computed at a smaller scale
        factor = tl.maximum(tl.maximum(tl.abs(c2q), tl.abs(q2c)), 1.0)
        largest = tl.max(tl.maximum(tl.abs(clip), 1.0) * factor, axis=1)
        shrink = tl.minimum(SAFE_IN_FP16 / largest, 1.0)
        clip = clip * shrink[:, None]
    acc = load_vector(attention_bias_ptr, channel, real)[None, :] * shrink[:, None]
    parts = (clip, c2q * shrink[:, None], clip * c2q, clip * q2c)
    for part in tl.static_range(4):
        acc = linear(acc, parts[part].to(storage), attention_weight_ptr + part * DIM, 4 * DIM, DIM, 1, WIDTH, CHUNK)

    pooled = attention_pool(words_ptr, pool_weight_ptr, word_mask_ptr, words, channel, real, DIM, WORDS)
    common = vector_linear(pooled, concat_weight_ptr + DIM, 2 * DIM, DIM) + load_vector(concat_bias_ptr, channel, real)
    out = common[None, :] * shrink[:, None]
    out = linear(out, acc.to(storage), concat_weight_ptr, 2 * DIM, DIM, 1, WIDTH, CHUNK) / shrink[:, None]
    store_rows(out_ptr + sample * clips * DIM, out, rows, 0, clips, channel, real, DIM)


def shapes(batch: int, clips: int, words: int, dim: int) -> Shapes:
    return {
        "clips": (batch, clips, dim),
        "words": (batch, words, dim),
        "clip_mask": (batch, clips),
        "word_mask": (batch, words),
        "clip_weight": (dim,),
        "word_weight": (dim,),
        "product_weight": (dim,),
        "attention_weight": (dim, 4 * dim),
        "attention_bias": (dim,),
        "pool_weight": (dim,),
        "concat_weight": (dim, 2 * dim),
        "concat_bias": (dim,),
    }


def query_attention(*inputs: Tensor) -> Tensor:
    """Clips that know the query. Arguments, in order, and result: see ``reference.py``; at least one word.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    batch, clips, dim = inputs[0].shape
    if not inputs[1].shape[1]:
        raise ValueError("query_attention: words: got none, expected at least 1 (its mask may be False)")
    return run_over_rows("query_attention", shapes(batch, clips, inputs[1].shape[1], dim), inputs, _launch)


def _launch(inputs: Sequence[Tensor], out: Tensor, config: LaunchConfig) -> None:
    launch_over_rows(query_attention_kernel, (out.shape[1], inputs[1].shape[1]), inputs, out, config)


AOT_CASES = tuple(
    AotCase(
        op="query_attention",
        variant=variant,
        kernel=query_attention_kernel,
        constexprs={"DIM": 128, "WIDTH": 128},
        pointers={"clip_mask_ptr": "i1", "word_mask_ptr": "i1"},
    )
    for variant in BATCH_REGIMES
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips and 16 words."""
    return calls_of(lambda batch: shapes(batch, 128, 16, 128), _launch, CLIPS=(16, 32, 64), WORDS=(16, 32))
