"""Small differentiable functions that the references share. Statistics and softmax are float32 whatever the storage."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.depthwise_gradient import DepthwiseFunction
from img_deploy.kernels.dtypes import MASKED

LAYER_NORM_EPS = 1e-6
FP16_SCALE = 2.0**-6

_MANY_DRAWS = 8192


def on_cpu(x: Tensor) -> bool:
    """Whether what is faster to train on a CPU is chosen for ``x``."""
    return x.device.type == "cpu"


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = LAYER_NORM_EPS) -> Tensor:
    """LayerNorm over the last axis, computed in float32, returned in ``x.dtype``."""
    return F.layer_norm(x.float(), (x.shape[-1],), weight.float(), bias.float(), eps).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[S, ..., K], [S, N, K], [S, N] -> [S, ..., N]."""
    out = torch.baddbmm(bias[:, None], x.flatten(1, -2), weight.transpose(1, 2))
    return out.view(*x.shape[:-1], -1)


def shrunk(x: Tensor) -> Tensor:
    """2**-6 times ``x`` in fp16, where a sum of values that fit need not; ``x`` itself in other types."""
    return x * FP16_SCALE if x.dtype == torch.float16 else x


def restored(total: Tensor) -> Tensor:
    """What was computed of :func:`shrunk` values at its own scale, float32 if it was fp16."""
    return total.float() / FP16_SCALE if total.dtype == torch.float16 else total


def masked_softmax(scores: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """Softmax in float32 over positions where ``mask`` (bool, broadcastable) is True. Returns float32."""
    scores = scores.float()
    if mask is not None:
        # Added, not filled in: the same numbers, and ONNX Runtime broadcasts a sum much faster than a Where.
        scores = scores + torch.where(mask, 0.0, MASKED)
    return torch.softmax(scores, dim=dim)


def attention_pool(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Weighted mean of ``x`` [B, L, D] with weights softmax(x · weight [D]) over ``mask`` [B, L]. Returns [B, D]."""
    alpha = masked_softmax(restored(shrunk(x) @ weight), mask).to(x.dtype)  # [B, L]
    return torch.einsum("bl,bld->bd", alpha, x)


def gate(visual: Tensor, audio: Tensor, importance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Importance-weighted fusion: ``(1 - p) LN1(visual) + p LN2(audio)``.

    Args:
        visual, audio: [B, L, D].
        importance: [B], the fusion weight p' in 0..1.
        weight, bias: [2, D], the LayerNorms of visual and audio.

    Source: paper section 3.3, equation of the audio-visual gate.
    """
    p = importance.to(visual.dtype)[:, None, None]
    return (1 - p) * layer_norm(visual, weight[0], bias[0]) + p * layer_norm(audio, weight[1], bias[1])


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution along clips, same zero padding: ``x`` [B, L, D], ``weight`` [D, K], ``bias`` [D]."""
    if on_cpu(x) and torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return DepthwiseFunction.apply(x, weight, bias)
    kernel = weight.shape[-1]
    out = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=kernel // 2, groups=weight.shape[0])
    return out.transpose(1, 2)


def dropout(x: Tensor, p: float) -> Tensor:
    """Inverted dropout with probability ``p`` (to 1/65536)."""
    if not p:
        return x
    if not on_cpu(x):
        return F.dropout(x, p)
    drop = round(p * 65536)
    keep = _draw_int16(x.numel()).view(x.shape).ge_(drop - 32768)  # 0 or 1; a bool array is slow to make and to use
    return x * keep.to(x.dtype).mul_(65536 / (65536 - drop))


def _draw_int16(count: int) -> Tensor:
    """Uniform draws, [count] int16: PyTorch's CPU Bernoulli takes a serial 64-bit draw for each."""
    words = (count + 3) // 4
    if words < _MANY_DRAWS:
        draws = torch.empty(words, dtype=torch.int64).random_(-(2**63), None)
    else:
        # PyTorch's generator seeds a faster one.
        seed = torch.empty((), dtype=torch.int64).random_().item()
        draws = torch.from_numpy(np.random.SFC64(int(seed)).random_raw(words).view(np.int64))
    return draws.view(torch.int16)[:count]
