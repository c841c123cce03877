"""The deployed modules as a GPU runs them: converted and moved once, then called with the kernels."""

from copy import deepcopy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from img_deploy.kernels.dispatch import OP_NAMES, use_ops
from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.model.branches import branches
from img_deploy.model.fusion import EventFusion, SlotAttention
from img_deploy.model.graphs import PAIR

if TYPE_CHECKING:
    from img_deploy.model.network import IMGNetwork


class PackedNetwork:
    """The four deployed modules of a network in one precision on one device; the network given is not changed.

    What the kernels take lies ready after this: query, key and value weights one below the other, the GRU stacks side
    by side, both modalities of a fusion in one tensor, what slot attention starts from and its weights computed, every
    tensor contiguous and in the storage dtype.

    Args:
        network: owner of the weights.
        precision: ``fp32``, ``fp16`` or ``bf16``, what weights and activations are stored in.
        device: e.g. ``cuda``.
    """

    def __init__(self, network: "IMGNetwork", precision: str, device: str) -> None:
        self.precision, self.device = precision, torch.device(device)
        self.storage: torch.dtype = getattr(torch, ELEMENT_TYPES[precision].torch)
        twin = deepcopy(network).eval().requires_grad_(False)
        if isinstance(twin.fusion.event, EventFusion):
            # Before the weights are rounded: a rounded sum of rounded terms would be off twice.
            _compute_once(twin.fusion.event.slot_attention, self.device, self.storage)
        self.network = twin.to(self.device, self.storage)
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.data = tensor.data.contiguous()

    def __call__(self, graph: str, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Outputs of one of ``GRAPH_NAMES`` or of ``PAIR``, through the kernels."""
        with use_ops(OP_NAMES), torch.inference_mode():
            run = self._pair if graph == PAIR else self.network.graphs[graph]
            return cast(tuple[Tensor, ...], run(*inputs))

    def _pair(self, video: Tensor, audio: Tensor, clip_mask: Tensor, *query: Tensor) -> tuple[Tensor, ...]:
        graphs = self.network.graphs
        clips, words = branches(
            lambda: graphs["video_encoder"](video, audio, clip_mask), lambda: graphs["query_encoder"](*query)
        )
        grounded: tuple[Tensor, ...] = graphs["grounder"](*clips, *words, clip_mask, query[-1])
        return grounded


def _compute_once(attention: SlotAttention, device: torch.device, storage: torch.dtype) -> None:
    """Let it take the slots to start from [2, 1, K, D], and its weights, as they are now."""
    slots, *weights = (each.to(device, storage).contiguous() for each in (attention.start(1), *attention.folded()))
    attention.start = lambda batch: slots.expand(-1, batch, -1, -1).contiguous()  # type: ignore[method-assign]
    attention.folded = lambda: tuple(weights)  # type: ignore[method-assign]
