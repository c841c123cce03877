"""ONNX form and TensorRT plugin: one per number of spans.

The reference sorts all spans, for which the exporter has no translation: the ONNX body is written here, over ``TopK``,
which puts the lower index first where scores are equal.
"""

from typing import Any

from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Dims, Output, PluginForm, Sizes, Variant, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName

PER_CLIP = ("batch", "length")
FLOAT, INT64 = 1, 7
"""ONNX's numbers for float32 and int64."""


def node_form(call: Call) -> NodeForm:
    axes = {"start_logits": PER_CLIP, "end_logits": PER_CLIP, "mask": PER_CLIP}
    return NodeForm(f"ImgBestSpans{call.values['k']}", axes)


def body(start_logits: Any, end_logits: Any, mask: Any, k: int) -> Any:
    """The function's nodes, made inside the exporter; arguments are values of the graph."""
    from onnxscript import opset18

    op: Any = opset18
    none, everywhere = op.Constant(value_float=MASKED), op.Constant(value_ints=[-1])
    last, rows = op.Constant(value_ints=[2]), op.Constant(value_ints=[1])
    real = op.Cast(mask, to=FLOAT)  # [B, L]
    shift = op.Where(mask, op.Constant(value_float=0.0), none)

    def probabilities(logits: Any) -> Any:
        logits = logits if logits.dtype == FLOAT else op.Cast(logits, to=FLOAT)
        return op.Mul(op.Softmax(op.Add(logits, shift), axis=-1), real)

    joint = op.Mul(op.Unsqueeze(probabilities(start_logits), last), op.Unsqueeze(probabilities(end_logits), rows))
    both = op.Mul(op.Unsqueeze(real, last), op.Unsqueeze(real, rows))  # [B, L, L]
    is_span = op.Greater(op.Trilu(both, upper=1), op.Constant(value_float=0.5))
    flat = op.Flatten(op.Where(is_span, joint, none), axis=1)
    # Room for k of them, however short the sample is.
    pads = op.Constant(value_ints=[0, 0, 0, k])
    scores, index = op.TopK(op.Pad(flat, pads, none), op.Constant(value_ints=[k]), axis=1, largest=1, sorted=1)
    found = op.Greater(scores, op.Div(none, op.Constant(value_float=2.0)))  # [B, k]
    length = op.Gather(op.Shape(mask), op.Constant(value_int=1), axis=0)
    pair = op.Concat(
        op.Unsqueeze(op.Div(index, length), everywhere), op.Unsqueeze(op.Mod(index, length), everywhere), axis=2
    )
    spans = op.Mul(pair, op.Unsqueeze(op.Cast(found, to=INT64), everywhere))
    return spans, op.Mul(scores, op.Cast(found, to=FLOAT))


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
