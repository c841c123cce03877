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
    """The ONNX body. Keys and values are never formed, as in the kernel: their weights are part of what comes before
    and after. The scale of the scores is part of the query's weights, and the state is float32.
    """
    slots, dim = call.size("slots", 2), call.size("qkv_weight", 2)
    refined = []
    for m, x in enumerate((given.visual, given.audio)):
        own = op.at(given, m)

        def normed(values: Any, name: str, own: Any = own) -> Any:
            return op.to_storage(norm(op, values, own(f"{name}_weight"), own(f"{name}_bias"), SLOT_NORM_EPS))

        query, gates = _folded(op, own, dim)
        clips = normed(op.to_wide(x), "norm_input")  # [B, L, D]
        first, second = ([op.part(own(name), layer) for name in ("mlp_weight", "mlp_bias")] for layer in range(2))
        state = op.Reshape(op.to_wide(own("slots")), [-1, dim])  # [B * K, D]
        for _ in range(given.iterations):
            asked = op.Reshape(linear(op, normed(state, "norm_slots"), *query), [-1, slots, dim])
            scores = op.to_wide(op.MatMul(asked, swap(op, clips)))  # [B, K, L]
            mean = op.MatMul(masked_softmax(op, scores, given.mask, (1,)), clips)  # [B, K, D]
            hidden_gates = linear(op, op.to_storage(state), own("gru_weight_hh"), own("gru_bias_hh"))
            state = _next_state(op, linear(op, op.Reshape(mean, [-1, dim]), *gates), hidden_gates, state, dim)
            hidden = op.Relu(linear(op, normed(state, "norm_mlp"), *first))
            state = op.Add(state, op.to_wide(linear(op, hidden, *second)))
        refined.append(op.Reshape(op.to_storage(state), [1, -1, slots, dim]))
    return op.Concat(*refined, axis=0)


def _folded(op: Nodes, own: Any, dim: int) -> Any:
    """Weight and bias from a slot to what a clip's score is the product with, and from a mean of clips to gates."""
    weights, biases = op.to_wide(own("qkv_weight")), op.to_wide(own("qkv_bias"))
    (q_weight, q_bias), (k_weight, _), (v_weight, v_bias) = (
        (op.cut(weights, part, dim), op.cut(biases, part, dim)) for part in range(3)
    )
    keys = op.Mul(op.Transpose(k_weight, perm=[1, 0]), op.floats(dim**-0.5))
    ih_weight, ih_bias = op.to_wide(own("gru_weight_ih")), op.to_wide(own("gru_bias_ih"))

    def product(matrix: Any, vector: Any) -> Any:
        return op.Squeeze(op.MatMul(matrix, op.Unsqueeze(vector, [1])), [1])

    query = op.MatMul(keys, q_weight), product(keys, q_bias)
    gates = op.MatMul(ih_weight, v_weight), op.Add(product(ih_weight, v_bias), ih_bias)
    return tuple(map(op.to_storage, query)), tuple(map(op.to_storage, gates))


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
