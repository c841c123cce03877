"""ONNX form and TensorRT plugin."""

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import (
    Dims,
    Output,
    PluginForm,
    ceil_div,
    over_padded_rows,
    reference_of,
)
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    axes = {"first": CLIPS, "second": CLIPS, "x": CLIPS, "mask": ("batch", "length")}
    return NodeForm("ImgBoundaryLogits", axes)


def plugin_form(_name: PluginName) -> PluginForm:
    def outputs(dims: Dims) -> tuple[Output, ...]:
        return (Output(tuple(dims["mask"]), "fp32"),) * 2

    return PluginForm(
        op="boundary_logits",
        inputs=tensor_names("boundary_logits"),
        outputs=outputs,
        extras=lambda dims: (dims["x"][1],),
        grid=lambda dims, blocks: (dims["x"][0], ceil_div(dims["x"][1], blocks["ROWS"]), 2),
        variants=over_padded_rows("boundary_logits", lambda sizes: sizes["start_norm_weight"][0]),
        reference=reference_of("boundary_logits"),
    )
