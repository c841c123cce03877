"""The network the way its published code computes it: slots that attend to keys and values, packed ``nn.GRU`` in step
13, and all three predictors.

The same weights and the same answers as :class:`~img_deploy.model.network.IMGNetwork`; only how the work is done
differs. It is a baseline for timing and nothing else.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from img_deploy.kernels.functional import layer_norm, masked_softmax
from img_deploy.kernels.slot_attention.reference import SLOT_NORM_EPS
from img_deploy.model.fusion import EventFusion, MultiScale, SlotAttention
from img_deploy.model.layers import BiGRU
from img_deploy.model.network import Grounder, IMGNetwork


class PackedMultiScale(nn.Module):
    """Step 13 with one ``nn.GRU`` per stack over packed sequences; takes and gives what ``MultiScale`` does."""

    def __init__(self, fused: MultiScale) -> None:
        super().__init__()
        layers = [layer for layer in fused.stacks if isinstance(layer, BiGRU)]
        self.stacks = nn.ModuleList(gru_of(layers, stack) for stack in range(MultiScale.STACKS))
        self.merge = gru_of([fused.merge], 0)
        self.projection = fused.projection

    def forward(self, local: Tensor, event: Tensor, whole: Tensor, lengths: Tensor) -> Tensor:
        lengths = self.on_host(lengths)
        pairs = ((local, event), (event, whole), (local, whole))
        stacks = [self.run(gru, torch.cat(pair, dim=-1), lengths) for gru, pair in zip(self.stacks, pairs, strict=True)]
        return self.projection(self.run(self.merge, torch.cat(stacks, dim=-1), lengths))

    @staticmethod
    def on_host(lengths: Tensor) -> Tensor:
        return lengths.cpu()

    @staticmethod
    def run(gru: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
        return packed(gru, x, lengths)


class PublishedSlots(SlotAttention):
    """Slot attention with keys and values of the clips, one modality after the other."""

    def forward(self, visual: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
        slots = self.start(visual.shape[0])
        return torch.stack([self.refine(m, x, mask, slots[m]) for m, x in enumerate((visual, audio))])

    def refine(self, m: int, x: Tensor, mask: Tensor, slots: Tensor) -> Tensor:
        """[B, L, D], [B, L], [B, K, D] -> [B, K, D], with the weights of modality ``m``."""
        own = {name: each[m] for name, each in self.named_parameters(recurse=False)}

        def normed(name: str, values: Tensor) -> Tensor:
            return layer_norm(values, own[f"{name}_weight"], own[f"{name}_bias"], SLOT_NORM_EPS)

        to_q, to_k, to_v = zip(own["qkv_weight"].chunk(3), own["qkv_bias"].chunk(3), strict=True)
        to_hidden, to_slots = zip(own["mlp_weight"], own["mlp_bias"], strict=True)
        cell = [own[f"gru_{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        clips = normed("norm_input", x)
        keys, values = F.linear(clips, *to_k), F.linear(clips, *to_v)
        for _ in range(self.iterations):
            scores = F.linear(normed("norm_slots", slots), *to_q) @ keys.transpose(1, 2) * x.shape[-1] ** -0.5
            update = masked_softmax(scores, mask[:, None]).to(x.dtype) @ values
            slots = torch.gru_cell(update.flatten(0, 1), slots.flatten(0, 1), *cell).view(slots.shape)
            slots = slots + F.linear(F.relu(F.linear(normed("norm_mlp", slots), *to_hidden)), *to_slots)
        return slots


class PublishedGrounder(Grounder):
    """The grounder with the predictors of both streams computed too, as the published forward does."""

    def forward(
        self,
        visual_clips: Tensor,
        audio_clips: Tensor,
        visual_words: Tensor,
        audio_words: Tensor,
        clip_mask: Tensor,
        word_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        visual = self.visual.fuse_query(visual_clips, visual_words, clip_mask, word_mask)
        audio = self.audio.fuse_query(audio_clips, audio_words, clip_mask, word_mask)
        fused, importance = self.fusion(visual, audio, clip_mask)
        start, end = self.predictor(fused, clip_mask)
        self.visual.predictor(visual, clip_mask)
        self.audio.predictor(audio, clip_mask)
        saliency = self.saliency(fused).squeeze(-1).float()
        return start, end, importance, saliency, self.visual.saliency_of(visual), self.audio.saliency_of(audio)


def gru_of(layers: list[BiGRU], stack: int) -> nn.GRU:
    """One stack of BiGRU layers as a bidirectional ``nn.GRU`` with the same weights."""
    hidden = layers[0].weight_hh.shape[-1]
    width = layers[0].weight_ih.shape[-1]
    gru = nn.GRU(width, hidden, num_layers=len(layers), batch_first=True, bidirectional=True)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            for direction, suffix in enumerate(("", "_reverse")):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(gru, f"{name}_l{number}{suffix}").copy_(getattr(layer, name)[stack, direction])
    return gru.eval()


def packed(gru: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, I] -> [B, L, 2H], each sequence to its own length."""
    out, _ = gru(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0]


class UnpackedMultiScale(PackedMultiScale):
    """Step 13 with ``nn.GRU`` over whole sequences, for batches without padding: what PyTorch is fastest at."""

    @staticmethod
    def run(gru: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        out: Tensor = gru(x)[0]
        return out

    @staticmethod
    def on_host(lengths: Tensor) -> Tensor:
        return lengths


def published_network(network: IMGNetwork) -> IMGNetwork:
    """A copy of a network that computes as the published code does. Every sequence needs at least one clip."""
    twin = as_published(_copy(network)).eval()
    twin.graphs["grounder"] = PublishedGrounder(twin.visual, twin.audio, twin.fusion, twin.saliency, twin.predictor)
    return twin


def unpadded_network(network: IMGNetwork) -> IMGNetwork:
    """A copy of a network for batches without padding: ``nn.GRU`` unpacked, the fused head alone.

    Compilation leaves its GRUs as they are: it would spell out their loops.
    """
    twin = _with_multi_scale(_copy(network), UnpackedMultiScale).eval()
    twin.fusion.multi_scale.run = torch.compiler.disable(UnpackedMultiScale.run)
    return twin


def as_published(network: IMGNetwork) -> IMGNetwork:
    """The network itself, changed: its steps 11 and 13 are computed as published from now on."""
    if isinstance(network.fusion.event, EventFusion):
        slots = PublishedSlots(network.config)
        slots.load_state_dict(network.fusion.event.slot_attention.state_dict())
        network.fusion.event.slot_attention = slots
    return _with_multi_scale(network, PackedMultiScale)


def _copy(network: IMGNetwork) -> IMGNetwork:
    twin = IMGNetwork(network.config)
    twin.load_state_dict(network.state_dict())
    return twin


def _with_multi_scale(network: IMGNetwork, kind: type[PackedMultiScale]) -> IMGNetwork:
    # Typed as what it takes the place of: both map three granularities and a mask to F.
    network.fusion.multi_scale = kind(network.fusion.multi_scale)  # type: ignore[assignment]
    return network
