"""Bodies of single ops in ONNX Runtime against their references, where no deployed graph tries every case."""

import numpy as np
import onnx
import pytest
import torch

from img_deploy.export.functions import Free, FunctionKey, TensorArgument, function_body
from img_deploy.kernels.best_spans.reference import best_spans
from img_deploy.kernels.bigru.reference import bigru
from img_deploy.kernels.lowering import DOMAIN

TYPES = {"float32": onnx.TensorProto.FLOAT, "bool": onnx.TensorProto.BOOL, "int32": onnx.TensorProto.INT32}


def tensor(*shape, dtype="float32"):
    return TensorArgument(tuple(Free(size) if isinstance(size, str) else size for size in shape), dtype)


def model_of(key, outputs):
    """A model of one node that calls the function of an op."""
    body = function_body(key)
    arguments = [each for each in key.arguments if isinstance(each, TensorArgument)]
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, TYPES[each.dtype], [size.axis if isinstance(size, Free) else size for size in each.shape]
        )
        for name, each in zip(body.input, arguments, strict=True)
    ]
    ends = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    node = onnx.helper.make_node(key.node, list(body.input), list(outputs), domain=DOMAIN)
    graph = onnx.helper.make_graph([node], key.node, inputs, ends)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=10)


STACKS, HIDDEN = 2, 5


@pytest.fixture(scope="module")
def gru(session_of):
    shapes = (
        tensor("batch", "length", STACKS, "width"),
        tensor("batch", dtype="int32"),
        tensor(STACKS, 2, 3 * HIDDEN, "width"),
        tensor(STACKS, 2, 3 * HIDDEN, HIDDEN),
        *(tensor(STACKS, 2, 3 * HIDDEN),) * 2,
    )
    model = model_of(FunctionKey("ImgGruLayer2", "bigru", shapes), {"out": onnx.TensorProto.FLOAT})
    return session_of(model.SerializeToString())


@pytest.mark.parametrize(
    ("lengths", "longest", "width"), [([1], 1, 1), ([0, 3], 3, 4), ([7, 1, 0, 5], 9, 3), ([33], 33, 12)]
)
def test_gru_layer(gru, lengths, longest, width):
    """Gates in the wrong order, a reversed direction that begins in the padding, or a sample of no clips."""
    torch.manual_seed(0)
    batch = len(lengths)
    arguments = {
        "x": torch.randn(batch, longest, STACKS, width),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "weight_ih": torch.randn(STACKS, 2, 3 * HIDDEN, width),
        "weight_hh": torch.randn(STACKS, 2, 3 * HIDDEN, HIDDEN),
        "bias_ih": torch.randn(STACKS, 2, 3 * HIDDEN),
        "bias_hh": torch.randn(STACKS, 2, 3 * HIDDEN),
    }
    expected = bigru(*arguments.values())
    found = gru({name: value.numpy() for name, value in arguments.items()})["out"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for row, length in enumerate(lengths):
        assert not found[row, length:].any()


def test_best_spans(session_of):
    """Another order of equal scores, spans that end before they begin, or padding among the answers."""
    arguments = (*(tensor("batch", "length"),) * 2, tensor("batch", "length", dtype="bool"), 3)
    outputs = {"spans": onnx.TensorProto.INT64, "scores": onnx.TensorProto.FLOAT}
    run = session_of(model_of(FunctionKey("ImgBestSpans3", "best_spans", arguments), outputs).SerializeToString())
    rng = np.random.default_rng(0)
    for batch, length in ((1, 3), (3, 9), (2, 30)):
        start, end = rng.standard_normal((2, batch, length), np.float32) * 3
        mask = np.arange(length) < rng.integers(2, length + 1, batch)[:, None]
        spans, scores = best_spans(*map(torch.from_numpy, (start, end, mask)), 3)
        found = run({"start_logits": start, "end_logits": end, "mask": mask})
        np.testing.assert_array_equal(found["spans"], spans)
        np.testing.assert_allclose(found["scores"], scores, atol=1e-6)
