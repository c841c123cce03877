"""TensorRT plugin of the GRU's loop over time; the input's part of the gates is a matrix product of the engine."""

from typing import TYPE_CHECKING

from img_deploy.kernels.plugin_form import Blocks, Dims, Output, PluginForm, Sizes, Variant, ceil_div
from img_deploy.kernels.plugin_names import PluginName

if TYPE_CHECKING:
    from torch import Tensor


def plugin_form(_name: PluginName) -> PluginForm:
    return PluginForm(
        op="bigru",
        inputs=("gates", "lengths", "weight", "bias"),
        outputs=lambda dims: (Output((*list(dims["gates"])[:3], dims["weight"][3] * 2), "gates"),),
        extras=lambda dims: (dims["gates"][1], dims["gates"][2]),
        grid=_grid,
        variants=_variants,
        reference=_reference,
    )


def _grid(dims: Dims, blocks: Blocks) -> tuple[object, ...]:
    return ceil_div(dims["gates"][1], blocks.get("BLOCK_B", 1)), dims["weight"][0] * 2


def _variants(sizes: Sizes) -> tuple[Variant, ...]:
    from img_deploy.kernels.bigru.kernel import LARGEST_HIDDEN
    from img_deploy.kernels.bigru.triton_recurrence import gru_batch_tile, gru_one_row

    hidden = sizes["weight"][3]
    if hidden > LARGEST_HIDDEN:
        return ()
    block = max(16, 1 << (hidden - 1).bit_length())
    constants = {"H": hidden, "BLOCK_H": block}
    return (
        Variant(gru_one_row, f"one_row_{block}", constants),
        Variant(gru_batch_tile, f"batch_tile_{block}", constants, dtypes=("fp16", "bf16")),
    )


def _reference(tensors: "list[Tensor]") -> "tuple[Tensor, ...]":
    import torch

    from img_deploy.kernels.bigru.reference import bigru

    gates, lengths, weight, bias = tensors
    stacks, rows = weight.shape[0], weight.shape[2]
    gates = gates.flatten(3)  # [S, B, L, 6H]
    # With the identity as its input weights, the layer's gates are these.
    identity = torch.eye(2 * rows, dtype=gates.dtype, device=gates.device).view(1, 2, rows, 2 * rows)
    return (bigru(gates, lengths, identity.expand(stacks, -1, -1, -1), weight, torch.zeros_like(bias), bias),)
