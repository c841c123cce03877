"""What a plugin node is called. Needs neither torch, Triton, ONNX nor TensorRT.

A node's name says everything that its body depends on beside the shapes of its inputs: a TensorRT plugin made for it
knows nothing else, and the node needs no attributes of its own. ``ImgSelfAttention8`` has 8 heads, ``ImgConvBlock4``
4 layers, ``ImgSlotAttention3`` 3 iterations, ``ImgBestSpans5`` finds 5 spans.
"""

import re
from dataclasses import dataclass

PLUGIN_NAMESPACE = "img_deploy"
PLUGIN_VERSION = "1"
"""The version of every plugin that Python registers."""

NODE_ATTRIBUTES: dict[str, str | int] = {
    "plugin_namespace": PLUGIN_NAMESPACE,
    "plugin_version": PLUGIN_VERSION,
    "aot": 1,
}
"""What TensorRT's parser reads on a plugin node; ``aot`` asks for compiled kernels instead of Python at run time."""

GRU_NODE = "ImgGruLayer"
"""The whole GRU layer as exported: inputs as those of the op ``bigru``. Its input's part of the gates is an ordinary
matrix product, so an engine holds that product and the plugin ``RECURRENCE_NODE``."""
RECURRENCE_NODE = "ImgGruRecurrence"
"""The loop over time: product of the inputs [S, B, L, 2 * 3H], lengths [B] int32, weight [S, 2, 3H, H],
both biases [S, 2, 3H]."""

_OPS = {
    "ImgSelfAttention": "attention_block",
    "ImgWordsCrossAttention": "attention_block",
    "ImgSlotsCrossAttention": "attention_block",
    "ImgConvBlock": "conv_block",
    "ImgLocalFusion": "local_fusion",
    "ImgGlobalFusion": "global_fusion",
    "ImgQueryAttention": "query_attention",
    "ImgSlotAttention": "slot_attention",
    "ImgImportance": "importance",
    "ImgGate": "gate",
    "ImgBoundaryLogits": "boundary_logits",
    "ImgWordEmbedding": "word_embedding",
    "ImgBestSpans": "best_spans",
    RECURRENCE_NODE: "bigru",
}


@dataclass(frozen=True)
class PluginName:
    """A node's name, taken apart: ``ImgConvBlock4`` is (conv_block, ImgConvBlock, 4)."""

    op: str
    kind: str
    number: int | None


def plugin_name(node: str) -> PluginName:
    """Take the name of a plugin node apart.

    Raises:
        ValueError: no plugin has this name.
    """
    found = re.fullmatch(r"([A-Za-z]+)(\d+)?", node)
    if not found or found[1] not in _OPS:
        raise ValueError(f"node {node}: no such plugin; known: {', '.join(_OPS)}")
    return PluginName(_OPS[found[1]], found[1], int(found[2]) if found[2] else None)
