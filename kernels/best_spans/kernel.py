"""Span decoding in one launch: the k best spans and their scores, without the table of all spans in memory."""

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

SHORTEST = 128
"""Clips that a program has room for at least: no shorter sample compiles the kernel anew."""


@triton.jit(do_not_specialize=["length"])
def best_spans_kernel(
    start_logits_ptr,  # [B, L]
    end_logits_ptr,  # [B, L]
    mask_ptr,  # [B, L] bool
    length,
    spans_ptr,  # [B, K, 2] int64
    scores_ptr,  # [B, K] fp64
    K: tl.constexpr,
    BLOCK_L: tl.constexpr,  # power of two >= length
    BLOCK_I: tl.constexpr,  # rows of the span table held at a time
):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK_L)
    start = _logits(start_logits_ptr, mask_ptr, row, j, length)
    end = _logits(end_logits_ptr, mask_ptr, row, j, length)
    start_high, start_log_sum = _log_sum(start)
    end_high, end_log_sum = _log_sum(end)

    # The n-th best span is the best of those that come after the (n-1)-th in the order "sum, then row order".
    last_sum = tl.full([], float("inf"), tl.float64)
    last_flat = -1
    for n in range(K):
        # Of each place in the block: the best of the rows that it has stood for, the first where they are equal.
        sums = tl.full([BLOCK_I, BLOCK_L], float("-inf"), tl.float64)
        flats = tl.zeros([BLOCK_I, BLOCK_L], tl.int32)
        for first in range(0, length, BLOCK_I):
            i = first + tl.arange(0, BLOCK_I)
            total = _logits(start_logits_ptr, mask_ptr, row, i, length)[:, None] + end[None, :]
            flat = i[:, None] * length + j[None, :]
            better = (i[:, None] <= j[None, :]) & (total > sums)
            if K > 1:
                better &= (total < last_sum) | ((total == last_sum) & (flat > last_flat))
            sums = tl.where(better, total, sums)
            flats = tl.where(better, flat, flats)
        best_sum = tl.max(tl.max(sums, axis=1), axis=0)
        best_flat = tl.min(tl.min(tl.where(sums == best_sum, flats, 2147483647), axis=1), axis=0)
        found = best_sum > float("-inf")  # none is left: the sum lets nothing through from here on
        best_flat = tl.where(found, best_flat, 0)
        best_i, best_j = best_flat // length, best_flat % length
        start_log = _logits(start_logits_ptr, mask_ptr, row, best_i, length) - start_high - start_log_sum
        end_log = _logits(end_logits_ptr, mask_ptr, row, best_j, length) - end_high - end_log_sum
        out = row * K + n
        tl.store(scores_ptr + out, tl.where(found, tl.exp(start_log + end_log), 0.0))
        tl.store(spans_ptr + 2 * out, best_i.to(tl.int64))
        tl.store(spans_ptr + 2 * out + 1, best_j.to(tl.int64))
        last_sum, last_flat = best_sum, best_flat


@triton.jit
def _logits(logits_ptr, mask_ptr, row, at, length):
    """Logits in float64, at least ``MASKED``; -inf where the mask is False or the sample ends."""
    real = tl.load(mask_ptr + row * length + at, mask=at < length, other=0) != 0
    values = tl.load(logits_ptr + row * length + at, mask=at < length, other=0.0).to(tl.float64)
    return tl.where(real, tl.maximum(values, MASKED), float("-inf"))


@triton.jit
def _log_sum(logits):
    """The largest logit of a sample, and the log of the sum of their exponentials above it. Zeros without clips."""
    highest = tl.max(logits, axis=0)
    highest = tl.where(highest > float("-inf"), highest, 0.0)
    total = tl.sum(tl.exp(logits - highest), axis=0)
    return highest, tl.log(tl.where(total > 0, total, 1.0))


def best_spans(start_logits: Tensor, end_logits: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` most probable spans; see ``reference.py``. [B, L] x 2, [B, L] bool -> [B, k, 2] int64, [B, k] fp64."""
    batch, length = start_logits.shape
    spans = torch.empty((batch, k, 2), dtype=torch.int64, device=start_logits.device)
    scores = torch.empty((batch, k), dtype=torch.float64, device=start_logits.device)
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
        BLOCK_L=padded(max(length, SHORTEST)),
        **config.launch_options(),
    )


AOT_CASES = tuple(
    AotCase(
        op="best_spans",
        variant="rows",
        kernel=best_spans_kernel,
        constexprs={"K": k, "BLOCK_L": SHORTEST},
        pointers={"mask_ptr": "i1", "spans_ptr": "i64", "scores_ptr": "fp64"},
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
        scores = torch.empty(64, 1, dtype=torch.float64, device="cuda")
        yield TuningCall("rows", name, partial(_launch, start, end, mask, spans, scores), candidates)
