"""ONNX form and TensorRT plugin: one per number of iterations, which the ONNX body spells out."""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, linear, masked_softmax, norm, swap
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, ceil_div, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName
from img_deploy.kernels.slot_attention.reference import SLOT_NORM_EPS

CLIPS = ("batch", "length", None)


def node_form(call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "mask": ("batch", "length"), "slots": (None, "batch", None, None)}
    return NodeForm(f"ImgSlotAttention{call.values['iterations']}", axes)


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body; the scale of the scores is part of the query's weights, and the state is float32."""
    dim = call.size("qkv_weight", 2)
    scale = op.to_storage(op.floats(dim**-0.5))
    refined = []
    for m, x in enumerate((given.visual, given.audio)):
        own = op.at(given, m)

        def normed(values: Any, name: str, own: Any = own) -> Any:
            return op.to_storage(norm(op, values, own(f"{name}_weight"), own(f"{name}_bias"), SLOT_NORM_EPS))

        (q_weight, q_bias), *keys_and_values = (
            (op.cut(own("qkv_weight"), part, dim), op.cut(own("qkv_bias"), part, dim)) for part in range(3)
        )
        q_weight, q_bias = op.Mul(q_weight, scale), op.Mul(q_bias, scale)
        clips = normed(op.to_wide(x), "norm_input")
        keys, values = (linear(op, clips, *each) for each in keys_and_values)  # [B, L, D]
        first, second = ([op.part(own(name), layer) for name in ("mlp_weight", "mlp_bias")] for layer in range(2))
        state = op.to_wide(own("slots"))  # [B, K, D]
        for _ in range(given.iterations):
            query = linear(op, normed(state, "norm_slots"), q_weight, q_bias)
            scores = op.to_wide(op.MatMul(query, swap(op, keys)))  # [B, K, L]
            update = op.MatMul(masked_softmax(op, scores, given.mask, (1,)), values)  # [B, K, D]
            state = _gru_cell(op, update, state, own)
            hidden = op.Relu(linear(op, normed(state, "norm_mlp"), *first))
            state = op.Add(state, op.to_wide(linear(op, hidden, *second)))
        refined.append(op.Unsqueeze(op.to_storage(state), [0]))
    return op.Concat(*refined, axis=0)


def _gru_cell(op: Nodes, x: Any, state: Any, own: Any) -> Any:
    """The next state, float32."""
    parts = []
    for values, kind in ((x, "ih"), (op.to_storage(state), "hh")):
        gates = linear(op, values, own(f"gru_weight_{kind}"), own(f"gru_bias_{kind}"))
        parts.append(op.split(op.to_wide(gates), 3, axis=-1))
    (r_x, z_x, n_x), (r_h, z_h, n_h) = parts
    reset, keep = op.Sigmoid(op.Add(r_x, r_h)), op.Sigmoid(op.Add(z_x, z_h))
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
