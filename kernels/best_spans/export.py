"""ONNX form and TensorRT plugin: one per number of spans.

The reference sorts all spans, for which the exporter has no translation: the ONNX body is written here, over ``TopK``,
which puts the lower index first where scores are equal.
"""

from typing import Any

import numpy as np

from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes
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
    lowest, none = (op.constant(np.array(value, np.float64)) for value in (MASKED, -np.inf))

    def logits(values: Any) -> Any:
        return op.Where(given.mask, op.Max(op.Cast(values, to=op.double), lowest), none)  # [B, L]

    start, end = logits(given.start_logits), logits(given.end_logits)
    sums = op.Add(op.Unsqueeze(start, [2]), op.Unsqueeze(end, [1]))  # [B, L, L]
    real = op.Cast(given.mask, to=op.wide)
    both = op.Mul(op.Unsqueeze(real, [2]), op.Unsqueeze(real, [1]))
    is_span = op.Greater(op.Trilu(both, upper=1), op.floats(0.5))
    flat = op.Flatten(op.Where(is_span, sums, none), axis=1)
    # Room for k of them, however short the sample is.
    best, index = op.TopK(op.Pad(flat, [0, 0, 0, given.k], none), [given.k], axis=1, largest=1, sorted=1, outputs=2)
    found = op.Greater(best, none)  # [B, k]
    length = op.Gather(op.Shape(given.mask), op.ints(1), axis=0)
    pair = op.Concat(op.Unsqueeze(op.Div(index, length), [2]), op.Unsqueeze(op.Mod(index, length), [2]), axis=2)
    spans = op.Mul(pair, op.Unsqueeze(op.Cast(found, to=op.long), [2]))
    norms = op.Add(*(op.ReduceLogSumExp(each, [1], keepdims=1) for each in (start, end)))  # [B, 1]
    scores = op.Exp(op.Sub(best, norms))
    return spans, op.Where(found, scores, op.constant(np.array(0.0)))


def plugin_form(name: PluginName) -> PluginForm:
    k = number_of(name, "spans")

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.best_spans.kernel import best_spans_kernel
        from img_deploy.kernels.launch import padded

        return (Variant(best_spans_kernel, "rows", {"K": k, "BLOCK_L": padded(sizes["start_logits"][1])}),)

    def outputs(dims: Dims) -> tuple[Output, ...]:
        batch = dims["start_logits"][0]
        return Output((batch, k, 2), "int64"), Output((batch, k), "fp32")  # TensorRT has no float64

    def reference(tensors: list[Any]) -> tuple[Any, ...]:
        spans, scores = reference_of("best_spans", k)(tensors)
        return spans, scores.float()

    return PluginForm(
        op="best_spans",
        inputs=tensor_names("best_spans"),
        outputs=outputs,
        extras=lambda dims: (dims["start_logits"][1],),
        grid=lambda dims, _blocks: (dims["start_logits"][0],),
        variants=variants,
        reference=reference,
    )
