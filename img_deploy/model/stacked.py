"""The whole network as it is trained on a GPU: both streams at once, and the three predictors at once.

A step on a GPU waits for the host to launch its operations, some thousands of small ones. Streams and predictors do the
same work with other weights: stacked they take half as many.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from img_deploy.kernels.functional import dropout, linear
from img_deploy.kernels.slot_attention.reference import refined
from img_deploy.model import stacked_ops as ops
from img_deploy.model.fusion import EventFusion, GlobalFusion, LocalFusion
from img_deploy.model.network import HeadOutput, IMGNetwork, NetworkOutput
from img_deploy.model.stacked_ops import Weights
from img_deploy.model.stacked_weights import StackedWeights
from img_deploy.model.stream import TextInput
from img_deploy.model.word_embedding import WordEmbedding


class StackedNetwork:
    """Computes what a network does, from its weights: the same outputs and gradients by fewer operations.

    Random numbers are drawn in another order. It owns no weights: those of the network may change, but not be replaced
    by other tensors.
    """

    def __init__(self, network: IMGNetwork) -> None:
        self._network = network
        streams, fusion = [network.visual, network.audio], network.fusion
        predictors = [network.predictor, *_each(streams, "predictor")]
        parts = {name: _each(streams, name) for name in ("words", "self_attention", "cross_attention")}
        parts["query_attention"] = _each(streams, "query_attention")
        parts |= {f"encoder.{name}": _each(_each(streams, "encoder"), name) for name in ("conv_block", "attention")}
        parts |= {f"predictor.{name}": _each(predictors, name) for name in ("conv_block", "attention", "position")}
        parts["boundary_norm"] = _each(predictors, "layer_norm_start") + _each(predictors, "layer_norm_end")
        parts["boundaries"] = _each(predictors, "start") + _each(predictors, "end")
        parts["saliency"] = _each([network, *streams], "saliency")
        parts["gates"] = _each([fusion.local, fusion.event, fusion.whole], "gate")
        if isinstance(fusion.event, EventFusion):
            parts["events"] = [fusion.event.visual_attention, fusion.event.audio_attention]
        self._weights = StackedWeights(parts)

    def __call__(
        self, video: Tensor, audio: Tensor, clip_mask: Tensor, text: TextInput, importance_weight: float = 1.0
    ) -> NetworkOutput:
        """Arguments and result are those of :meth:`img_deploy.model.network.IMGNetwork.forward`."""
        step = _Step(self._network, self._weights(), clip_mask, text)
        streams = step.streams(video, audio)  # [2, B, L, D]
        fused, importance = step.fused(streams, importance_weight)
        heads = torch.cat([fused[None], streams])  # [3, B, L, D]
        starts, ends = step.predictors(heads)
        scores = linear(heads, **step.weights["saliency"]).squeeze(-1).float()
        outputs = zip(starts.unbind(0), ends.unbind(0), scores.unbind(0), strict=True)
        fused_head, visual_head, audio_head = (HeadOutput(*each) for each in outputs)
        return NetworkOutput(fused_head, visual_head, audio_head, importance)


class _Step:
    """What the parts of one step share: the weights as they are now, the masks and dropout's ``p``."""

    def __init__(self, network: IMGNetwork, weights: dict[str, Weights], clip_mask: Tensor, text: TextInput) -> None:
        self.network, self.weights, self.text = network, weights, text
        self.clips, self.words = _Mask(clip_mask), _Mask(text.mask)
        self.lengths = clip_mask.sum(dim=1, dtype=torch.int32)  # [B]
        self.heads, self.p = network.config.heads, network.visual.projection.dropout_p

    def streams(self, video: Tensor, audio: Tensor) -> Tensor:
        """Clips that know the query, of both streams: [2, B, L, D]."""
        network, weights, words = self.network, self.weights, self.words
        position = network.visual.encoder.position  # a constant
        # The features of the streams differ in width.
        x = torch.stack([network.visual.projection(video), network.audio.projection(audio)])
        x = self.attend("self_attention", self.encode("encoder", x, self.clips, position), None, self.clips)
        asked = self.encode("encoder", self.embedded(), words, position)
        x = self.attend("cross_attention", x, asked, words)
        return ops.query_attention(x, asked, self.clips.added, words.added, weights["query_attention"], self.p)

    def encode(self, part: str, x: Tensor, mask: "_Mask", position: Tensor) -> Tensor:
        x = ops.conv_block(x, mask.keep, position, self.weights[f"{part}.conv_block"], self.p)
        return self.attend(f"{part}.attention", x, None, mask)

    def attend(self, part: str, x: Tensor, context: Tensor | None, mask: "_Mask | None") -> Tensor:
        added = None if mask is None else mask.added
        return ops.attention_block(x, context, added, self.weights[part], self.heads, self.p)

    def embedded(self) -> Tensor:
        """Words of both streams, [2, B, N, D]."""
        text, weights = self.text, self.weights["words"]
        if isinstance(self.network.visual.words, WordEmbedding):
            assert text.unknown is not None
            assert text.char_ids is not None
            return ops.word_embedding(text.features, text.unknown, text.char_ids, weights, self.p)
        features = dropout(text.features.expand(2, -1, -1, -1), self.p)
        return linear(features, weights["linear.weight"], weights["linear.bias"])

    def fused(self, x: Tensor, importance_weight: float) -> tuple[Tensor, Tensor]:
        """Both streams [2, B, L, D] -> fused [B, L, D] and importance [B]. Their weights here are stacked already."""
        fusion = self.network.fusion
        if fusion.importance is None:
            p = weight = torch.full((x.shape[1],), 0.5, device=x.device)
        else:
            p = ops.importance(x, self.clips.added, _own(fusion.importance))
            weight = fusion.weight_of(p, importance_weight)
        local = event = whole = x
        if isinstance(fusion.local, LocalFusion):
            local = ops.local_fusion(x, self.clips.keep, _own(fusion.local), self.p)
        if isinstance(fusion.event, EventFusion):
            attention = fusion.event.slot_attention
            slots = attention.start(x.shape[1])
            slots = refined(x, self.clips.added, slots, attention.folded(), attention.iterations)
            event = self.attend("events", x, slots, None)
        if isinstance(fusion.whole, GlobalFusion):
            whole = ops.global_fusion(x, self.clips.added, _own(fusion.whole), self.p)
        granularities = ops.gates((local, event, whole), weight, self.weights["gates"])
        return fusion.multi_scale(*granularities, self.lengths), p

    def predictors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end logits [3, B, L] of the fused, visual and audio clips [3, B, L, D]."""
        position = self.weights["predictor.position"]["weight"][:, None, : x.shape[2]]
        first = self.encode("predictor", x, self.clips, position)
        second = self.encode("predictor", first, self.clips, position)
        norm, weights = self.weights["boundary_norm"], self.weights["boundaries"]
        return ops.boundary_logits(first, second, x, self.clips.added, norm, weights)


class _Mask:
    """What blocks read of a mask [B, L]: ``keep`` [B, L, 1] and ``added`` [B, L], float32."""

    def __init__(self, mask: Tensor) -> None:
        self.keep, self.added = mask[..., None].float(), ops.added(mask)


def _each(modules: Sequence[nn.Module], name: str) -> list[Any]:
    return [getattr(module, name) for module in modules]


def _own(module: nn.Module) -> Weights:
    return dict(module.named_parameters(recurse=False))
