"""ONNX form and TensorRT plugin: one per number of iterations, which the ONNX body spells out."""

from typing import Any

import numpy as np

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, linear, masked_softmax, swap
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, ceil_div, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName
from img_deploy.kernels.slot_attention.reference import SLOT_NORM_EPS

CLIPS = ("batch", "length", None)
PRODUCTS = ("query_weight", "gru_weight_ih", "gru_weight_hh")


def node_form(call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "mask": ("batch", "length"), "slots": (None, "batch", None, None)}
    return NodeForm(f"ImgSlotAttention{call.values['iterations']}", axes)


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body; the state is float32."""
    slots, dim = call.size("slots", 2), call.size("query_weight", 2)
    ones = op.constant(np.ones(dim, np.float32))

    def normed(wide: Any) -> Any:
        return op.to_storage(op.LayerNormalization(wide, ones, axis=-1, epsilon=SLOT_NORM_EPS))

    refined = []
    for m, x in enumerate((given.visual, given.audio)):
        own = op.at(given, m)
        query, ih, hh = ([own(weight), own(weight.replace("weight", "bias"))] for weight in PRODUCTS)
        first, second = ([op.part(own(name), layer) for name in ("mlp_weight", "mlp_bias")] for layer in range(2))
        clips = normed(op.to_wide(x))  # [B, L, D]
        state = op.Reshape(op.to_wide(own("slots")), [-1, dim])  # [B * K, D]
        for _ in range(given.iterations):
            asked = op.Reshape(linear(op, normed(state), *query), [-1, slots, dim])
            scores = op.to_wide(op.MatMul(asked, swap(op, clips)))  # [B, K, L]
            mean = op.Reshape(op.MatMul(masked_softmax(op, scores, given.mask, (1,)), clips), [-1, dim])
            of_mean, of_state = linear(op, mean, *ih), linear(op, op.to_storage(state), *hh)
            state = _next_state(op, of_mean, of_state, state, dim)
            hidden = op.Relu(linear(op, normed(state), *first))
            state = op.Add(state, op.to_wide(linear(op, hidden, *second)))
        refined.append(op.Reshape(op.to_storage(state), [1, -1, slots, dim]))
    return op.Concat(*refined, axis=0)


def _next_state(op: Nodes, of_input: Any, of_state: Any, state: Any, dim: int) -> Any:
    """The GRU cell's next state, float32; the gates of both are in the order r, z, n."""
    (given, n_x), (kept, n_h) = (
        op.Split(op.to_wide(gates), [2 * dim, dim], axis=-1, outputs=2) for gates in (of_input, of_state)
    )
    reset, keep = op.split(op.Sigmoid(op.Add(given, kept)), 2, axis=-1)
    candidate = op.Tanh(op.Add(n_x, op.Mul(reset, n_h)))
    return op.Add(candidate, op.Mul(keep, op.Sub(state, candidate)))


def plugin_form(name: PluginName) -> PluginForm:
    iterations = number_of(name, "iterations")

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.slot_attention import kernel

        dim = sizes["slots"][3]
        if dim > kernel.LARGEST_DIM:
            return ()
        fixed = kernel.constants(dim, iterations)
        return (
            Variant(kernel.slot_attention_rows, "rows", fixed, dtypes=("fp16", "bf16")),
            Variant(kernel.slot_attention_one_slot, "one_slot", fixed),
        )

    return PluginForm(
        op="slot_attention",
        inputs=tensor_names("slot_attention"),
        outputs=lambda dims: (Output(tuple(dims["slots"]), "visual"),),
        extras=lambda dims: (dims["visual"][0], dims["visual"][1], dims["slots"][2]),
        grid=lambda dims, blocks: (dims["visual"][0], 2, ceil_div(dims["slots"][2], blocks.get("ROWS", 1))),
        variants=variants,
        reference=reference_of("slot_attention", iterations),
    )
