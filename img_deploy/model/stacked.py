"""The whole network as it is trained on a GPU: both streams at once, and the three predictors at once.

A step on a GPU waits for the host to launch its operations, some thousands of small ones. Streams and predictors do the
same work with other weights: stacked they take half as many.
"""

import torch
from torch import Tensor

from img_deploy.kernels.functional import dropout
from img_deploy.kernels.linear_gradient import grouped_linear
from img_deploy.model import stacked_ops as ops
from img_deploy.model.fusion import EventFusion, GlobalFusion, LocalFusion
from img_deploy.model.network import HeadOutput, IMGNetwork, NetworkOutput
from img_deploy.model.stacked_ops import Weights, part
from img_deploy.model.stream import TextInput
from img_deploy.model.word_embedding import WordEmbedding

STREAM_PARTS = ("words", "encoder", "self_attention", "cross_attention", "query_attention")
FUSION_PARTS = ("importance", "local", "event", "whole")


class StackedNetwork:
    """Computes what a network does, from its weights: the same outputs and gradients by fewer operations.

    Random numbers are drawn in another order. It owns no weights: those of the network may change, but not be replaced
    by other tensors.
    """

    def __init__(self, network: IMGNetwork) -> None:
        self.network, self.fusion, self.heads = network, network.fusion, network.config.heads
        streams = [network.visual, network.audio]
        modules = {name: [getattr(stream, name) for stream in streams] for name in STREAM_PARTS}
        modules |= {name: [getattr(each, name) for each in (network, *streams)] for name in ("predictor", "saliency")}
        if isinstance(self.fusion.event, EventFusion):
            modules["events"] = [self.fusion.event.visual_attention, self.fusion.event.audio_attention]
        self._parts = {name: ops.parameters_by_name(each) for name, each in modules.items()}
        # What the fusion holds for both streams is stacked already.
        self._fusion = {
            name: dict(module.named_parameters())
            for name in FUSION_PARTS
            if (module := getattr(self.fusion, name)) is not None
        }

    def __call__(
        self, video: Tensor, audio: Tensor, clip_mask: Tensor, text: TextInput, importance_weight: float = 1.0
    ) -> NetworkOutput:
        """Arguments and result are those of :meth:`img_deploy.model.network.IMGNetwork.forward`."""
        weights = {name: ops.stacked(each) for name, each in self._parts.items()}
        clips = _Masks(clip_mask)
        streams = self._streams(video, audio, clips, text, weights)  # [2, B, L, D]
        fused, importance = self._fused(streams, clips, weights, importance_weight)
        heads = torch.cat([fused[None], streams])  # [3, B, L, D]
        starts, ends = self._predictors(heads, clips, weights["predictor"])
        scores = grouped_linear(heads, **weights["saliency"]).squeeze(-1).float()
        outputs = zip(starts.unbind(0), ends.unbind(0), scores.unbind(0), strict=True)
        fused_head, visual_head, audio_head = (HeadOutput(*each) for each in outputs)
        return NetworkOutput(fused_head, visual_head, audio_head, importance)

    @property
    def p(self) -> float:
        """Of dropout."""
        return self.network.visual.projection.dropout_p

    def _streams(
        self, video: Tensor, audio: Tensor, clips: "_Masks", text: TextInput, weights: dict[str, Weights]
    ) -> Tensor:
        """Clips that know the query, of both streams: [2, B, L, D]."""
        visual, words, position = self.network.visual, _Masks(text.mask), self.network.visual.encoder.position
        # The features of the streams differ in width.
        x = torch.stack([visual.projection(video), self.network.audio.projection(audio)])
        x = self._encode(x, clips, position, weights["encoder"])
        x = ops.attention_block(x, None, clips.added, weights["self_attention"], self.heads, self.p)
        asked = self._encode(self._words(text, weights["words"]), words, position, weights["encoder"])
        x = ops.attention_block(x, asked, words.added, weights["cross_attention"], self.heads, self.p)
        return ops.query_attention(x, asked, clips.added, words.added, weights["query_attention"], self.p)

    def _encode(self, x: Tensor, masks: "_Masks", position: Tensor, weights: Weights) -> Tensor:
        x = ops.conv_block(x, masks.keep, position, part(weights, "conv_block"), self.p)
        return ops.attention_block(x, None, masks.added, part(weights, "attention"), self.heads, self.p)

    def _words(self, text: TextInput, weights: Weights) -> Tensor:
        """[2, B, N, D]."""
        if isinstance(self.network.visual.words, WordEmbedding):
            assert text.unknown is not None
            assert text.char_ids is not None
            return ops.word_embedding(text.features, text.unknown, text.char_ids, weights, self.p)
        features = dropout(text.features.expand(2, -1, -1, -1), self.p)
        return grouped_linear(features, **part(weights, "linear"))

    def _fused(
        self, x: Tensor, clips: "_Masks", weights: dict[str, Weights], importance_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Both streams [2, B, L, D] -> fused [B, L, D] and importance [B]."""
        fusion, own = self.fusion, self._fusion
        if fusion.importance is None:
            p = weight = torch.full((x.shape[1],), 0.5, device=x.device)
        else:
            p = ops.importance(x, clips.added, own["importance"])
            weight = fusion.weight_of(p, importance_weight)
        local = x
        if isinstance(fusion.local, LocalFusion):
            local = ops.local_fusion(x, clips.keep, own["local"], self.p)
        event = x
        if isinstance(fusion.event, EventFusion):
            slots = fusion.event.slot_attention
            found = ops.slot_attention(
                x, clips.added, slots.start(x.shape[1]), part(own["event"], "slot_attention"), slots.iterations
            )
            event = ops.attention_block(x, found, None, weights["events"], self.heads, self.p)
        whole = x
        if isinstance(fusion.whole, GlobalFusion):
            whole = ops.global_fusion(x, clips.added, own["whole"], self.p)
        gated = (
            ops.gate(each, weight, part(own[name], "gate"))
            for name, each in (("local", local), ("event", event), ("whole", whole))
        )
        return fusion.multi_scale(*gated, clips.lengths), p

    def _predictors(self, x: Tensor, clips: "_Masks", weights: Weights) -> tuple[Tensor, Tensor]:
        """Start and end logits [3, B, L] of the fused, visual and audio clips [3, B, L, D]."""
        position = weights["position.weight"][:, None, : x.shape[2]]
        first = self._encode(x, clips, position, weights)
        second = self._encode(first, clips, position, weights)
        return ops.boundary_logits(first, second, x, clips.added, weights)


class _Masks:
    """What blocks read of a mask [B, L]: ``keep`` [B, L, 1] and ``added`` [B, L], float32; ``lengths`` [B] int32."""

    def __init__(self, mask: Tensor) -> None:
        self.keep, self.added = mask[..., None].float(), ops.added(mask)
        self.lengths = mask.sum(dim=1, dtype=torch.int32)
