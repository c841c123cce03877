"""What computes the graph that a plan holds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def runner(model: onnx.ModelProto) -> Callable[[list[str], dict[str, Any]], list[Any]]:
    """What computes a graph: ONNX Runtime, or, where plugins are in it, the evaluator that can be taught operators."""
    if plugins := _plugin_types(model):
        return ReferenceEvaluator(model, new_ops=[_operator(node) for node in plugins]).run
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    used = {node.name for node in session.get_inputs()}
    return lambda names, feeds: session.run(names, {name: feeds[name] for name in used})


def _plugin_types(model: onnx.ModelProto) -> set[str]:
    bodies = {function.name for function in model.functions}
    return {node.op_type for node in model.graph.node if node.domain} - bodies


def _operator(node_type: str) -> type[OpRun]:
    """A plugin node's operator for the evaluator: the PyTorch reference of its declaration."""
    import torch

    from img_deploy.kernels.plugin_form import plugin_form

    def run(self: Any, *values: Any, **attributes: Any) -> Any:  # noqa: ARG001
        with torch.no_grad():
            results = plugin_form(node_type).reference([torch.from_numpy(np.array(value)) for value in values])
        return tuple(result.numpy() for result in results)

    return type(node_type, (OpRun,), {"op_domain": "img_deploy", "_run": run})
