"""ONNX form and TensorRT plugin: one per number of spans.

The reference sorts all spans, for which the exporter has no translation: the ONNX body is written here, over ``TopK``,
which puts the lower index first where scores are equal.
"""

from typing import Any

from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, masked_softmax
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Dims, Output, PluginForm, Sizes, Variant, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName

PER_CLIP = ("batch", "length")
FLOAT, INT64 = 1, 7
"""ONNX's numbers for float32 and int64."""


def node_form(call: Call) -> NodeForm:
    axes = {"start_logits": PER_CLIP, "end_logits": PER_CLIP, "mask": PER_CLIP}
    return NodeForm(f"ImgBestSpans{call.values['k']}", axes)


def body(op: Nodes, _call: Call, given: Any) -> Any:
    """The ONNX body, over ``TopK``, which puts the lower index first where scores are equal."""
    none, real = op.floats(MASKED), op.Cast(given.mask, to=op.wide)  # [B, L]

    def probabilities(logits: Any) -> Any:
        return op.Mul(op.to_wide(masked_softmax(op, op.to_wide(logits), given.mask)), real)

    start, end = probabilities(given.start_logits), probabilities(given.end_logits)
    joint = op.Mul(op.Unsqueeze(start, [2]), op.Unsqueeze(end, [1]))  # [B, L, L]
    both = op.Mul(op.Unsqueeze(real, [2]), op.Unsqueeze(real, [1]))
    is_span = op.Greater(op.Trilu(both, upper=1), op.floats(0.5))
    flat = op.Flatten(op.Where(is_span, joint, none), axis=1)
    # Room for k of them, however short the sample is.
    scores, index = op.TopK(op.Pad(flat, [0, 0, 0, given.k], none), [given.k], axis=1, largest=1, sorted=1, outputs=2)
    found = op.Greater(scores, op.floats(MASKED / 2))  # [B, k]
    length = op.Gather(op.Shape(given.mask), op.ints(1), axis=0)
    pair = op.Concat(op.Unsqueeze(op.Div(index, length), [2]), op.Unsqueeze(op.Mod(index, length), [2]), axis=2)
    spans = op.Mul(pair, op.Unsqueeze(op.Cast(found, to=op.long), [2]))
    return spans, op.Mul(scores, op.Cast(found, to=op.wide))


def plugin_form(name: PluginName) -> PluginForm:
    k = number_of(name, "spans")

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.best_spans.kernel import best_spans_kernel
        from img_deploy.kernels.launch import padded

        return (Variant(best_spans_kernel, "rows", {"K": k, "BLOCK_L": padded(sizes["start_logits"][1])}),)

    def outputs(dims: Dims) -> tuple[Output, ...]:
        batch = dims["start_logits"][0]
        return Output((batch, k, 2), "int64"), Output((batch, k), "fp32")

    return PluginForm(
        op="best_spans",
        inputs=tensor_names("best_spans"),
        outputs=outputs,
        extras=lambda dims: (dims["start_logits"][1],),
        grid=lambda dims, _blocks: (dims["start_logits"][0],),
        variants=variants,
        reference=reference_of("best_spans", k),
    )
