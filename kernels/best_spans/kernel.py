"""Span decoding in one launch: both softmaxes and the k best spans, without the table of all spans in memory."""

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import STORAGE_DTYPES, padded
from img_deploy.kernels.tiles import MASKED
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for


@triton.jit(do_not_specialize=["length"])
def best_spans_kernel(
    start_logits_ptr,  # [B, L]
    end_logits_ptr,  # [B, L]
    mask_ptr,  # [B, L] bool
    length,
    spans_ptr,  # [B, K, 2] int64
    scores_ptr,  # [B, K] fp32
    K: tl.constexpr,
    BLOCK_L: tl.constexpr,  # power of two >= length
    BLOCK_I: tl.constexpr,  # rows of the span table held at a time
):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK_L)
    inside = j < length
    real = tl.load(mask_ptr + row * length + j, mask=inside, other=0) != 0
    start = tl.load(start_logits_ptr + row * length + j, mask=inside, other=0.0).to(tl.float32)
    end = tl.load(end_logits_ptr + row * length + j, mask=inside, other=0.0).to(tl.float32)
    start, end = tl.where(real, start, MASKED), tl.where(real, end, MASKED)
    start_max = tl.max(start, axis=0)
    start_sum = tl.sum(tl.where(real, tl.exp(start - start_max), 0.0), axis=0)
    end_max = tl.max(end, axis=0)
    end_sum = tl.sum(tl.where(real, tl.exp(end - end_max), 0.0), axis=0)
    # A sample without clips has no span; its sums must still not divide 0 by 0.
    end_p = tl.where(real, tl.exp(end - end_max) / tl.where(end_sum > 0, end_sum, 1.0), 0.0)

    # The n-th best span is the best of those that come after the (n-1)-th in the order "score, then row order".
    last_score = float("inf")
    last_flat = -1
    for n in range(K):
        best_score = -1.0
        best_flat = 0
        for first in range(0, length, BLOCK_I):
            i = first + tl.arange(0, BLOCK_I)
            row_real = tl.load(mask_ptr + row * length + i, mask=i < length, other=0) != 0
            row_start = tl.load(start_logits_ptr + row * length + i, mask=i < length, other=0.0).to(tl.float32)
            row_start = tl.where(row_real, row_start, MASKED)
            start_p = tl.where(row_real, tl.exp(row_start - start_max) / tl.where(start_sum > 0, start_sum, 1.0), 0.0)
            score = start_p[:, None] * end_p[None, :]  # [BLOCK_I, BLOCK_L]
            flat = i[:, None] * length + j[None, :]
            after = (score < last_score) | ((score == last_score) & (flat > last_flat))
            valid = row_real[:, None] & real[None, :] & (i[:, None] <= j[None, :]) & after
            score = tl.where(valid, score, -1.0)
            tile_score = tl.max(tl.max(score, axis=1), axis=0)
            at_best = tl.where(valid & (score == tile_score), flat, 2147483647)
            tile_flat = tl.min(tl.min(at_best, axis=1), axis=0)
            better = tile_score > best_score
            best_flat = tl.where(better, tile_flat, best_flat)
            best_score = tl.where(better, tile_score, best_score)
        out = row * K + n
        tl.store(scores_ptr + out, tl.maximum(best_score, 0.0))
        tl.store(spans_ptr + 2 * out, (best_flat // length).to(tl.int64))
        tl.store(spans_ptr + 2 * out + 1, (best_flat % length).to(tl.int64))
        # Nothing left: a score of -1 lets nothing through from here on, so the rest stays empty as well.
        last_score = best_score
        last_flat = best_flat


def best_spans(start_logits: Tensor, end_logits: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` most probable spans; see ``reference.py``. [B, L] x 2, [B, L] bool -> [B, k, 2] int64, [B, k] fp32."""
    batch, length = start_logits.shape
    spans = torch.empty((batch, k, 2), dtype=torch.int64, device=start_logits.device)
    scores = torch.empty((batch, k), dtype=torch.float32, device=start_logits.device)
    if min(batch, length, k) == 0:
        return spans.zero_(), scores.zero_()
    config = config_for("best_spans", "rows", start_logits.dtype, start_logits.device)
    _launch(start_logits.contiguous(), end_logits.contiguous(), mask.contiguous(), spans, scores, config)
    return spans, scores


def _launch(start: Tensor, end: Tensor, mask: Tensor, spans: Tensor, scores: Tensor, config: LaunchConfig) -> None:
    batch, length = start.shape
    best_spans_kernel[(batch,)](
        *(start, end, mask, length, spans, scores),
        K=spans.shape[1],
        BLOCK_L=padded(length),
        **config.launch_options(),
    )


AOT_CASES = tuple(
    AotCase(
        op="best_spans",
        variant="rows",
        kernel=best_spans_kernel,
        constexprs={"K": k, "BLOCK_L": 128},
        pointers={"mask_ptr": "i1", "spans_ptr": "i64", "scores_ptr": "fp32"},
    )
    for k in (1, 5)
)


def tuning_calls() -> Iterator[TuningCall]:
    """Decoding 64 samples of 128 clips."""
    candidates = tuple(LaunchConfig(warps, 1, {"BLOCK_I": rows}) for warps in (1, 2, 4, 8) for rows in (8, 16, 32))
    for name, dtype in STORAGE_DTYPES.items():
        start, end = torch.randn(2, 64, 128, dtype=dtype, device="cuda").unbind()
        mask = torch.ones(64, 128, dtype=torch.bool, device="cuda")
        spans = torch.empty(64, 1, 2, dtype=torch.int64, device="cuda")
        scores = torch.empty(64, 1, dtype=torch.float32, device="cuda")
        yield TuningCall("rows", name, partial(_launch, start, end, mask, spans, scores), candidates)
