"""Local fusion in one launch: per block of clips, both modalities' convolutions, projections and the gate."""

from collections.abc import Iterator, Sequence

import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels import functional
from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, calls_of, launch_over_rows, run_over_rows
from img_deploy.kernels.tiles import channels, layer_norm, linear, load_mask, load_rows, load_vector, spread, store_rows
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall

FP16_SCALE = tl.constexpr(functional.FP16_SCALE)


@triton.jit
def _branch(
    x_ptr,
    mask_ptr,
    rows,
    clips,
    conv1_weight_ptr,
    conv3_weight_ptr,
    conv5_weight_ptr,
    conv_bias_ptr,
    proj_weight_ptr,
    proj_bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One modality: ``LN(Linear([ReLU(conv1); ReLU(conv3); ReLU(conv5)]))``, float32 [ROWS, WIDTH]."""
    ROWS: tl.constexpr = rows.shape[0]
    storage = x_ptr.dtype.element_ty
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    three = spread(load_vector(conv_bias_ptr + DIM, channel, real), ROWS)
    five = spread(load_vector(conv_bias_ptr + 2 * DIM, channel, real), ROWS)
    for tap in tl.static_range(5):
        source = rows + tap - 2
        x = load_rows(x_ptr, source, clips, channel, real, DIM).to(tl.float32)
        x = tl.where(load_mask(mask_ptr, source, clips)[:, None], x, 0.0)
        five += x * load_vector(conv5_weight_ptr + tap, channel * 5, real)[None, :]
        if tap >= 1 and tap <= 3:
            three += x * load_vector(conv3_weight_ptr + tap - 1, channel * 3, real)[None, :]
    x = load_rows(x_ptr, rows, clips, channel, real, DIM).to(tl.float32)
    x = tl.where(load_mask(mask_ptr, rows, clips)[:, None], x, 0.0)
    one = x * load_vector(conv1_weight_ptr, channel, real)[None, :] + load_vector(conv_bias_ptr, channel, real)[None, :]

    # Sums of taps may leave the range of fp16 where clips do not; the factor is exact and taken out before the norm.
    SCALE: tl.constexpr = 1.0 if storage == tl.float32 else FP16_SCALE
    one = (tl.maximum(one, 0.0) * SCALE).to(storage)
    three = (tl.maximum(three, 0.0) * SCALE).to(storage)
    five = (tl.maximum(five, 0.0) * SCALE).to(storage)
    acc = spread(load_vector(proj_bias_ptr, channel, real) * SCALE, ROWS)
    acc = linear(acc, one, proj_weight_ptr, 3 * DIM, DIM, 1, WIDTH, CHUNK)
    acc = linear(acc, three, proj_weight_ptr + DIM, 3 * DIM, DIM, 1, WIDTH, CHUNK)
    acc = linear(acc, five, proj_weight_ptr + 2 * DIM, 3 * DIM, DIM, 1, WIDTH, CHUNK)
    return layer_norm(acc / SCALE, norm_weight_ptr, norm_bias_ptr, channel, real, DIM)


@triton.jit(do_not_specialize=["clips"])
def local_fusion_kernel(
    visual_ptr,  # [B, L, D]
    audio_ptr,  # [B, L, D]
    importance_ptr,  # [B]
    mask_ptr,  # [B, L] bool
    conv1_weight_ptr,  # [2, D, 1]
    conv3_weight_ptr,  # [2, D, 3]
    conv5_weight_ptr,  # [2, D, 5]
    conv_bias_ptr,  # [2, 3, D]
    proj_weight_ptr,  # [2, D, 3D]
    proj_bias_ptr,  # [2, D]
    norm_weight_ptr,  # [2, D]
    norm_bias_ptr,  # [2, D]
    clips,  # L
    out_ptr,  # [B, L, D]
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
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
            *(x_ptr + base, mask_ptr, rows, clips),
            *(conv1_weight_ptr + modality * DIM, conv3_weight_ptr + modality * 3 * DIM),
            *(conv5_weight_ptr + modality * 5 * DIM, conv_bias_ptr + modality * 3 * DIM),
            *(proj_weight_ptr + modality * 3 * DIM * DIM, proj_bias_ptr + modality * DIM),
            *(norm_weight_ptr + modality * DIM, norm_bias_ptr + modality * DIM),
            *(DIM, WIDTH, CHUNK),
        )
        out += branch * tl.where(modality == 1, importance, 1.0 - importance)
    store_rows(out_ptr + base, out, rows, 0, clips, channel, real, DIM)


def shapes(batch: int, clips: int, dim: int) -> Shapes:
    return {
        "visual": (batch, clips, dim),
        "audio": (batch, clips, dim),
        "importance": (batch,),
        "mask": (batch, clips),
        "conv1_weight": (2, dim, 1),
        "conv3_weight": (2, dim, 3),
        "conv5_weight": (2, dim, 5),
        "conv_bias": (2, 3, dim),
        "proj_weight": (2, dim, 3 * dim),
        "proj_bias": (2, dim),
        "norm_weight": (2, dim),
        "norm_bias": (2, dim),
    }


def local_fusion(*inputs: Tensor) -> Tensor:
    """Gate of both modalities' short convolutions. Arguments, in order, and result: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    return run_over_rows("local_fusion", shapes(*inputs[0].shape), inputs, _launch)


def _launch(inputs: Sequence[Tensor], out: Tensor, config: LaunchConfig) -> None:
    launch_over_rows(local_fusion_kernel, (out.shape[1],), inputs, out, config)


AOT_CASES = tuple(
    AotCase(
        op="local_fusion",
        variant=variant,
        kernel=local_fusion_kernel,
        constexprs={"DIM": 128, "WIDTH": 128},
        pointers={"mask_ptr": "i1", "importance_ptr": "fp32"},
    )
    for variant in BATCH_REGIMES
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips."""
    return calls_of(lambda batch: shapes(batch, 128, 128), _launch)
