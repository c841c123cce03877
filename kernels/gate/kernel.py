"""The gate in one launch: per block of clips, both LayerNorms and their weighted sum."""

from collections.abc import Iterator, Sequence

import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, calls_of, launch_over_rows, run_over_rows
from img_deploy.kernels.tiles import channels, layer_norm, load_rows, store_rows
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall


@triton.jit(do_not_specialize=["clips"])
def gate_kernel(
    visual_ptr,  # [B, L, D]
    audio_ptr,  # [B, L, D]
    importance_ptr,  # [B]
    norm_weight_ptr,  # [2, D]
    norm_bias_ptr,  # [2, D]
    clips,  # L
    out_ptr,  # [B, L, D]
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    base = sample * clips * DIM
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    importance = tl.load(importance_ptr + sample).to(tl.float32)
    visual = load_rows(visual_ptr + base, rows, clips, channel, real, DIM).to(tl.float32)
    audio = load_rows(audio_ptr + base, rows, clips, channel, real, DIM).to(tl.float32)
    visual = layer_norm(visual, norm_weight_ptr, norm_bias_ptr, channel, real, DIM)
    audio = layer_norm(audio, norm_weight_ptr + DIM, norm_bias_ptr + DIM, channel, real, DIM)
    out = (1.0 - importance) * visual + importance * audio
    store_rows(out_ptr + base, out, rows, 0, clips, channel, real, DIM)


def shapes(batch: int, clips: int, dim: int) -> Shapes:
    return {
        "visual": (batch, clips, dim),
        "audio": (batch, clips, dim),
        "importance": (batch,),
        "norm_weight": (2, dim),
        "norm_bias": (2, dim),
    }


def gate(*inputs: Tensor) -> Tensor:
    """Weighted sum of both modalities. Arguments, in order, and result: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    return run_over_rows("gate", shapes(*inputs[0].shape), inputs, _launch)


def _launch(inputs: Sequence[Tensor], out: Tensor, config: LaunchConfig) -> None:
    launch_over_rows(gate_kernel, (out.shape[1],), inputs, out, config)


AOT_CASES = tuple(
    AotCase(
        op="gate",
        variant=variant,
        kernel=gate_kernel,
        constexprs={"DIM": 128, "WIDTH": 128},
        pointers={"importance_ptr": "fp32"},
    )
    for variant in BATCH_REGIMES
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips."""
    return calls_of(lambda batch: shapes(batch, 128, 128), _launch, rows=(4, 8, 16, 32), chunked=False)
