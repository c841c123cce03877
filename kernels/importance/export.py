"""ONNX form and TensorRT plugin."""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, attention_pool, linear
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, reference_of
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    return NodeForm("ImgImportance", {"visual": CLIPS, "audio": CLIPS, "mask": ("batch", "length")})


def body(op: Nodes, _call: Call, given: Any) -> Any:
    """The ONNX body."""
    pools = [
        attention_pool(op, x, op.part(given.pool_weight, m), given.mask)
        for m, x in ((1, given.audio), (0, given.visual))
    ]
    logit = op.to_wide(linear(op, op.Concat(*pools, axis=-1), given.weight, given.bias))  # [B, 1, 1]
    return op.Sigmoid(op.Squeeze(logit, [1, 2]))


def plugin_form(_name: PluginName) -> PluginForm:
    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.importance.kernel import constants, importance_kernel

        return (Variant(importance_kernel, "rows", constants(sizes["pool_weight"][1])),)

    return PluginForm(
        op="importance",
        inputs=tensor_names("importance"),
        outputs=lambda dims: (Output((dims["visual"][0],), "fp32"),),
        extras=lambda dims: (dims["visual"][1],),
        grid=lambda dims, _blocks: (dims["visual"][0],),
        variants=variants,
        reference=reference_of("importance"),
    )
