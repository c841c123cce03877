"""Audio-visual fusion: importance, local, event and global granularity, multi-scale (steps 9 to 13)."""

import torch
from torch import Tensor, nn

from img_deploy.kernels.gate import gate
from img_deploy.kernels.global_fusion import global_fusion
from img_deploy.kernels.importance import importance
from img_deploy.kernels.local_fusion import local_fusion
from img_deploy.kernels.slot_attention import slot_attention
from img_deploy.model.branches import branches
from img_deploy.model.config import ModelConfig
from img_deploy.model.layers import (
    AttentionBlock,
    BiGRU,
    Dropped,
    Projection,
    ones,
    xavier,
    xavier_vector,
    zeros,
)

MODALITIES = 2
"""Leading axis of every fusion weight: 0 visual, 1 audio."""


class Importance(nn.Module):
    """How much the sound matters for this query: p = sigmoid(Linear([pool(audio); pool(visual)])) (section 3.3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pool_weight = xavier_vector(dim, (dim, 1), stacked=MODALITIES)
        self.weight = xavier(1, 2 * dim)
        self.bias = zeros(1)

    def forward(self, visual: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
        """[B, L, D] twice -> p [B] float32."""
        return importance(visual, audio, mask, self.pool_weight, self.weight, self.bias)


class Gate(nn.Module):
    """Importance-weighted sum of both streams under their own LayerNorms."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer_norm_weight = ones(MODALITIES, dim)
        self.layer_norm_bias = zeros(MODALITIES, dim)

    def forward(self, visual: Tensor, audio: Tensor, p: Tensor) -> Tensor:
        return gate(visual, audio, p, self.layer_norm_weight, self.layer_norm_bias)


class LocalFusion(Dropped):
    """Neighbouring clips: convolutions of width 1, 3, 5, see ``kernels/local_fusion``."""

    WIDTHS = (1, 3, 5)

    def __init__(self, dim: int, p: float) -> None:
        super().__init__(p)
        for width in self.WIDTHS:
            weight = xavier(MODALITIES, dim, 1, width, stacked=1)
            self.register_parameter(f"conv{width}_weight", nn.Parameter(weight.detach().squeeze(2)))
        self.conv_bias = zeros(MODALITIES, len(self.WIDTHS), dim)
        self.proj_weight = xavier(MODALITIES, dim, 3 * dim, stacked=1)
        self.proj_bias = zeros(MODALITIES, dim)
        self.gate = Gate(dim)

    def forward(self, visual: Tensor, audio: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        return local_fusion(
            visual,
            audio,
            p,
            mask,
            *(getattr(self, f"conv{width}_weight") for width in self.WIDTHS),
            self.conv_bias,
            self.proj_weight,
            self.proj_bias,
            self.gate.layer_norm_weight,
            self.gate.layer_norm_bias,
            dropout_p=self.dropout_p,
        )


class SlotAttention(nn.Module):
    """Event slots of both modalities, see ``kernels/slot_attention``. The noise is part of the model."""

    noise: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, m = config.dim, MODALITIES
        self.iterations = config.slot_iterations
        self.slots_mu = nn.Parameter(torch.randn(m, dim))
        self.slots_logsigma = xavier_vector(dim, (1, 1, dim), stacked=m)
        for name in ("norm_input", "norm_slots", "norm_mlp"):
            self.register_parameter(f"{name}_weight", ones(m, dim))
            self.register_parameter(f"{name}_bias", zeros(m, dim))
        self.qkv_weight = xavier(m, 3 * dim, dim, parts=3, stacked=1)
        self.qkv_bias = zeros(m, 3 * dim)
        bound = dim**-0.5
        self.gru_weight_ih = nn.Parameter(torch.empty(m, 3 * dim, dim).uniform_(-bound, bound))
        self.gru_weight_hh = nn.Parameter(torch.empty(m, 3 * dim, dim).uniform_(-bound, bound))
        self.gru_bias_ih = nn.Parameter(torch.empty(m, 3 * dim).uniform_(-bound, bound))
        self.gru_bias_hh = nn.Parameter(torch.empty(m, 3 * dim).uniform_(-bound, bound))
        self.mlp_weight = xavier(m, 2, dim, dim, stacked=2)
        self.mlp_bias = zeros(m, 2, dim)
        self.register_buffer("noise", torch.zeros(m, config.slots, dim))

    def start(self, batch: int) -> Tensor:
        """Slots to start from, [2, B, K, D]: fresh noise per sample while training, else the recorded one."""
        mu, sigma = self.slots_mu[:, None, None], self.slots_logsigma.exp()[:, None, None]
        if self.training:
            return mu + sigma * torch.randn(MODALITIES, batch, *self.noise.shape[1:], dtype=mu.dtype, device=mu.device)
        return (mu + sigma * self.noise[:, None]).expand(-1, batch, -1, -1)

    def folded(self) -> tuple[Tensor, ...]:
        """The weights of ``slot_attention``, in its order, where a normalised clip x is its own key and value.

        The keys' bias adds the same to a slot's scores of all clips, which the softmax does not see. The values' weight
        and bias come after the mean of the clips, as its weights sum to one. So the keys' weight becomes part of the
        query's and the values' part of the GRU's, and so do scale and shift of the LayerNorm before each product.
        """
        wide = torch.promote_types(self.qkv_weight.dtype, torch.float32)
        own = {name: each.to(wide) for name, each in self.named_parameters(recurse=False)}
        q, k, v = own["qkv_weight"].unflatten(1, (3, -1)).unbind(1)  # [2, D, D]
        q_bias, _, v_bias = own["qkv_bias"].unflatten(1, (3, -1)).unbind(1)
        (first, second), (first_bias, second_bias) = own["mlp_weight"].unbind(1), own["mlp_bias"].unbind(1)

        def normed(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            """Weight and bias of a product with what LayerNorm ``name`` scales and shifts."""
            shift = own[f"{name}_bias"][..., None]
            return weight * own[f"{name}_weight"][:, None], torch.baddbmm(bias[..., None], weight, shift).squeeze(-1)

        keys = k.transpose(1, 2) * (own["norm_input_weight"] * k.shape[-1] ** -0.5)[..., None]
        query, query_bias = normed("norm_slots", q, q_bias)
        values, v_bias = normed("norm_input", v, v_bias)
        first, first_bias = normed("norm_mlp", first, first_bias)
        ih = own["gru_weight_ih"]
        folded = (
            keys @ query,
            (keys @ query_bias[..., None]).squeeze(-1),
            ih @ values,
            own["gru_weight_hh"],
            torch.baddbmm(own["gru_bias_ih"][..., None], ih, v_bias[..., None]).squeeze(-1),
            own["gru_bias_hh"],
            torch.stack([first, second], dim=1),
            torch.stack([first_bias, second_bias], dim=1),
        )
        return tuple(each.to(self.qkv_weight.dtype) for each in folded)

    def forward(self, visual: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
        return slot_attention(visual, audio, mask, self.start(visual.shape[0]), *self.folded(), self.iterations)


class EventFusion(nn.Module):
    """Events: each stream's clips attend to its own slots, then the gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slot_attention = SlotAttention(config)
        self.visual_attention = AttentionBlock(config.dim, config.heads, config.dropout, cross=True)
        self.audio_attention = AttentionBlock(config.dim, config.heads, config.dropout, cross=True)
        self.gate = Gate(config.dim)

    def forward(self, visual: Tensor, audio: Tensor, p: Tensor, slots: Tensor) -> Tensor:
        """``slots`` [2, B, K, D] of ``slot_attention``."""
        visual, audio = branches(
            lambda: self.visual_attention(visual, slots[0], None), lambda: self.audio_attention(audio, slots[1], None)
        )
        return self.gate(visual, audio, p)


class GlobalFusion(Dropped):
    """The whole video: pooled vector beside each clip, see ``kernels/global_fusion``."""

    def __init__(self, dim: int, p: float) -> None:
        super().__init__(p)
        self.pool_weight = xavier_vector(dim, (dim, 1), stacked=MODALITIES)
        self.proj_weight = xavier(MODALITIES, dim, 2 * dim, stacked=1)
        self.proj_bias = zeros(MODALITIES, dim)
        self.gate = Gate(dim)

    def forward(self, visual: Tensor, audio: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        return global_fusion(
            visual,
            audio,
            p,
            mask,
            self.pool_weight,
            self.proj_weight,
            self.proj_bias,
            self.gate.layer_norm_weight,
            self.gate.layer_norm_bias,
            dropout_p=self.dropout_p,
        )


class MultiScale(nn.Module):
    """Three bidirectional GRU stacks over pairs of granularities, one more over all three (step 13)."""

    STACKS = 3

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        widths = [2 * dim] + [dim] * (config.gru_layers - 1)
        self.stacks = nn.ModuleList(BiGRU(self.STACKS, width, dim // 2) for width in widths)
        self.merge = BiGRU(1, self.STACKS * dim, dim)
        self.projection = Projection(2 * dim, dim, config.dropout)

    def forward(self, local: Tensor, event: Tensor, whole: Tensor, lengths: Tensor) -> Tensor:
        """[B, L, D] three times, clips of each sample [B] int32 -> [B, L, D]."""
        pairs = torch.cat([local, event, event, whole, local, whole], dim=-1)
        x = torch.unflatten(pairs, -1, (self.STACKS, 2 * local.shape[-1]))  # [B, L, 3, 2D]
        for layer in self.stacks:
            x = layer(x, lengths)  # [B, L, 3, D]
        x = self.merge(x.flatten(2)[:, :, None], lengths)  # [B, L, 1, 2D]
        return self.projection(x[:, :, 0])


class Fusion(nn.Module):
    """Both streams into one: F of the paper, and the audio importance."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, p = config.dim, config.dropout
        self.importance = Importance(dim) if config.use_importance else None
        self.local = LocalFusion(dim, p) if config.use_local else PlainGate(dim)
        self.event = EventFusion(config) if config.use_event else PlainGate(dim)
        self.whole = GlobalFusion(dim, p) if config.use_global else PlainGate(dim)
        self.multi_scale = MultiScale(config)

    def forward(
        self, visual: Tensor, audio: Tensor, mask: Tensor, importance_weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """[B, L, D] twice -> fused [B, L, D] and p [B]; gates use ``0.5 (1 - w) + w p`` (warm-up w, 1 when done)."""
        event = self.event
        (p, weight, local), (slots,), (lengths,) = branches(
            lambda: self._weighed(visual, audio, mask, importance_weight),
            lambda: (event.slot_attention(visual, audio, mask) if isinstance(event, EventFusion) else mask,),
            lambda: (mask.sum(dim=1).to(torch.int32),),
        )
        event_clips, whole = branches(
            lambda: event(visual, audio, weight, slots), lambda: self.whole(visual, audio, weight, mask)
        )
        return self.multi_scale(local, event_clips, whole, lengths), p

    def _weighed(self, visual: Tensor, audio: Tensor, mask: Tensor, importance_weight: float) -> tuple[Tensor, ...]:
        """Importance, weight of the gates and the local granularity: together less than slots take beside them."""
        if self.importance is None:
            p = torch.full((visual.shape[0],), 0.5, device=visual.device)
            weight = p
        else:
            p = self.importance(visual, audio, mask)
            weight = self.weight_of(p, importance_weight)
        return p, weight, self.local(visual, audio, weight, mask)

    @staticmethod
    def weight_of(p: Tensor, importance_weight: float) -> Tensor:
        """The weight of the gates, [B]."""
        return p if importance_weight == 1.0 else 0.5 * (1 - importance_weight) + importance_weight * p


class PlainGate(nn.Module):
    """Stand-in for a granularity that an ablation leaves out: the gate alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = Gate(dim)

    def forward(self, visual: Tensor, audio: Tensor, p: Tensor, _mask_or_slots: Tensor) -> Tensor:
        return self.gate(visual, audio, p)
