"""Global fusion in one launch: per block of clips, both modalities' pools and projections and the gate."""

from collections.abc import Iterator, Sequence

import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, calls_of, launch_over_rows, run_over_rows
from img_deploy.kernels.tiles import (
    attention_pool,
    channels,
    layer_norm,
    linear,
    load_rows,
    load_vector,
    spread,
    store_rows,
    vector_linear,
)
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall


@triton.jit
def _branch(
    x_ptr,
    mask_ptr,
    rows,
    clips,
    pool_weight_ptr,
    proj_weight_ptr,
    proj_bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    POOL: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One modality: ``LN(Linear([pool(x); x]))``, float32 [ROWS, WIDTH]."""
    ROWS: tl.constexpr = rows.shape[0]
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    pooled = attention_pool(x_ptr, pool_weight_ptr, mask_ptr, clips, channel, real, DIM, POOL)
    # The pooled half of the projection is the same for every clip: a vector, not a tile.
    common = vector_linear(pooled, proj_weight_ptr, 2 * DIM, DIM) + load_vector(proj_bias_ptr, channel, real)
    x = load_rows(x_ptr, rows, clips, channel, real, DIM)
    acc = spread(common, ROWS)
    acc = linear(acc, x, proj_weight_ptr + DIM, 2 * DIM, DIM, 1, WIDTH, CHUNK)
    return layer_norm(acc, norm_weight_ptr, norm_bias_ptr, channel, real, DIM)


@triton.jit(do_not_specialize=["clips"])
def global_fusion_kernel(
    visual_ptr,  # [B, L, D]
    audio_ptr,  # [B, L, D]
    importance_ptr,  # [B]
    mask_ptr,  # [B, L] bool
    pool_weight_ptr,  # [2, D]
    proj_weight_ptr,  # [2, D, 2D]
    proj_bias_ptr,  # [2, D]
    norm_weight_ptr,  # [2, D]
    norm_bias_ptr,  # [2, D]
    clips,  # L
    out_ptr,  # [B, L, D]
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    POOL: tl.constexpr,
    CHUNK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    base = sample * clips * DIM
    mask_ptr += sample * clips
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    importance = tl.load(importance_ptr + sample).to(tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    for modality in range(2):  # 0 visual, 1 audio
        x_ptr = audio_ptr if modality == 1 else visual_ptr
        branch = _branch(
            *(x_ptr + base, mask_ptr, rows, clips, pool_weight_ptr + modality * DIM),
            *(proj_weight_ptr + modality * 2 * DIM * DIM, proj_bias_ptr + modality * DIM),
            *(norm_weight_ptr + modality * DIM, norm_bias_ptr + modality * DIM),
            *(DIM, WIDTH, POOL, CHUNK),
        )
        out += branch * tl.where(modality == 1, importance, 1.0 - importance)
    store_rows(out_ptr + base, out, rows, 0, clips, channel, real, DIM)


def shapes(batch: int, clips: int, dim: int) -> Shapes:
    return {
        "visual": (batch, clips, dim),
        "audio": (batch, clips, dim),
        "importance": (batch,),
        "mask": (batch, clips),
        "pool_weight": (2, dim),
        "proj_weight": (2, dim, 2 * dim),
        "proj_bias": (2, dim),
        "norm_weight": (2, dim),
        "norm_bias": (2, dim),
    }


def global_fusion(*inputs: Tensor) -> Tensor:
    """Gate of both modalities' clips beside the pooled video. Arguments, in order, and result: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    return run_over_rows("global_fusion", shapes(*inputs[0].shape), inputs, _launch)


def _launch(inputs: Sequence[Tensor], out: Tensor, config: LaunchConfig) -> None:
    launch_over_rows(global_fusion_kernel, (out.shape[1],), inputs, out, config)


AOT_CASES = tuple(
    AotCase(
        op="global_fusion",
        variant=variant,
        kernel=global_fusion_kernel,
        constexprs={"DIM": 128, "WIDTH": 128},
        pointers={"mask_ptr": "i1", "importance_ptr": "fp32"},
    )
    for variant in BATCH_REGIMES
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips."""
    return calls_of(lambda batch: shapes(batch, 128, 128), _launch, POOL=(32, 64))
