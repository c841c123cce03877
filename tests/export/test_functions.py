"""Bodies of single ops in ONNX Runtime against their references."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
import torch

from img_deploy.export.functions import FunctionKey, TensorArgument, function_of
from img_deploy.kernels.best_spans.reference import best_spans
from img_deploy.kernels.bigru.reference import bigru
from img_deploy.kernels.dtypes import named
from img_deploy.kernels.lowering import DOMAIN
from img_deploy.kernels.op import op_parameters
from img_deploy.kernels.plugin_names import plugin_name

NODES = json.loads((Path(__file__).parents[1] / "golden" / "trt" / "plugin_nodes.json").read_text())
del NODES["ImgGruRecurrence"]  # a plugin without a function of its own; the whole layer is tried below
SIZES = {"B": 3, "L": 9, "N": 5, "D": 32}
TOLERANCES = {"float32": 2e-5, "float16": 2e-2}


def tensor(*shape, dtype="float32"):
    return TensorArgument(tuple(None if isinstance(size, str) else size for size in shape), dtype)


def model_of(key, outputs):
    """A model of one node that calls the function of an op."""
    body = ir.serde.serialize_function(function_of(key))
    arguments = [each for each in key.arguments if isinstance(each, TensorArgument)]
    inputs = [
        onnx.helper.make_tensor_value_info(name, type_of(each.dtype), each.shape)
        for name, each in zip(body.input, arguments, strict=True)
    ]
    ends = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    node = onnx.helper.make_node(key.node, list(body.input), list(outputs), domain=DOMAIN)
    graph = onnx.helper.make_graph([node], key.node, inputs, ends)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=10)


def type_of(dtype):
    return onnx.TensorProto.DataType.Value(named("torch", dtype).onnx)


def key_of(node, storage):
    """The function of a node of ``NODES``, whose B, L and N are free, and its reference."""
    name, axes = plugin_name(node), NODES[node]
    reference = getattr(import_module(f"img_deploy.kernels.{name.op}.reference"), name.op)
    arguments = []
    for parameter in op_parameters(reference):
        each, argument = parameter.name, name.number if parameter.annotation is int else None
        if each in axes:
            kind = {"importance": "float32", "char_ids": "int64", "word_unknown": "bool"}.get(each, storage)
            kind = "bool" if each.endswith("mask") else kind
            argument = tensor(*(axis if axis in ("B", "L", "N") else size_of(axis) for axis in axes[each]), dtype=kind)
        arguments.append(argument)
    return FunctionKey(node, name.op, tuple(arguments)), reference


def size_of(axis):
    return axis if isinstance(axis, int) else int(axis[:-1] or 1) * SIZES[axis[-1]]


def outputs_of(node, storage):
    """Output -> ONNX type."""
    if node == "ImgBestSpans5":
        return {"spans": onnx.TensorProto.INT64, "scores": onnx.TensorProto.DOUBLE}
    kinds = {"ImgImportance": ["float32"], "ImgBoundaryLogits": ["float32"] * 2}
    return {f"out{index}": type_of(kind) for index, kind in enumerate(kinds.get(node, [storage]))}


def drawn_for(node, rng):
    """Inputs of a node in float32, as a trained network has them; the last sample of a mask has nothing real."""
    inputs = {}
    for name, axes in NODES[node].items():
        shape = tuple(map(size_of, axes))
        values = rng.standard_normal(shape)
        if name.endswith("mask"):
            values = np.arange(shape[1]) < np.array([shape[1], 2, 0])[:, None]
        elif name == "word_unknown":
            values = values > 1
        elif name == "char_ids":
            values = rng.integers(0, NODES[node]["char_table"][0], shape) * (np.arange(shape[2]) < 5)
        elif name == "importance":
            values = 1 / (1 + np.exp(-values))
        elif name.startswith("norm") and name.endswith("weight"):
            values = 1 + 0.2 * values
        elif name.endswith("weight") or "gru_weight" in name:
            values = values * shape[-1] ** -0.5
        elif "bias" in name:
            values = 0.3 * values
        inputs[name] = values.astype(np.float32) if values.dtype == np.float64 else values
    return inputs


@pytest.mark.parametrize("storage", TOLERANCES)
@pytest.mark.parametrize("node", [node for node in NODES if "BestSpans" not in node])
def test_a_body_gives_what_the_reference_gives(session_of, node, storage):
    """The body is written beside the reference: a weight cut in the wrong place, or a mask on the wrong axis."""
    key, reference = key_of(node, storage)
    run = session_of(model_of(key, outputs_of(node, storage)).SerializeToString())
    stored = {
        name: each.astype(storage) if each.dtype == np.float32 and name != "importance" else each
        for name, each in drawn_for(node, np.random.default_rng(0)).items()
    }
    given = {
        name: torch.from_numpy(each.astype(np.float32) if each.dtype == np.float16 else each)
        for name, each in stored.items()
    }
    names = [each.name for each in op_parameters(reference)]
    expected = reference(*(given.get(*each) for each in zip(names, key.arguments, strict=True)))
    expected = expected if isinstance(expected, tuple) else (expected,)
    for found, wanted in zip(run(stored).values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=TOLERANCES[storage], rtol=TOLERANCES[storage])


@pytest.mark.parametrize("node", NODES)
def test_a_body_in_bfloat16_takes_types_that_the_standard_ops_have(node):
    """ONNX Runtime's CPU kernels take no bfloat16, so nothing else would notice before a GPU refuses the graph."""
    key, _ = key_of(node, "bfloat16")
    flat = onnx.inliner.inline_local_functions(model_of(key, outputs_of(node, "bfloat16")))
    flat = onnx.shape_inference.infer_shapes(flat, check_type=True, strict_mode=True)
    onnx.checker.check_model(flat)
    values = (*flat.graph.value_info, *flat.graph.input, *flat.graph.output)
    brains = {value.name for value in values if value.type.tensor_type.elem_type == type_of("bfloat16")}
    for each in flat.graph.node:
        schema = onnx.defs.get_schema(each.op_type, 18)
        allowed = {kind.type_param_str: kind.allowed_type_strs for kind in schema.type_constraints}
        for index, name in enumerate(each.input):
            kind = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
            assert name not in brains or "tensor(bfloat16)" in allowed[kind], each.op_type


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
    outputs = {"spans": onnx.TensorProto.INT64, "scores": onnx.TensorProto.DOUBLE}
    run = session_of(model_of(FunctionKey("ImgBestSpans3", "best_spans", arguments), outputs).SerializeToString())
    rng = np.random.default_rng(0)
    for batch, length, digits in ((1, 3, 9), (3, 9, 9), (3, 9, 0), (2, 30, 9)):
        start, end = (rng.standard_normal((2, batch, length), np.float32) * 3).round(digits)
        mask = np.arange(length) < rng.integers(2, length + 1, batch)[:, None]
        spans, scores = best_spans(*map(torch.from_numpy, (start, end, mask)), 3)
        found = run({"start_logits": start, "end_logits": end, "mask": mask})
        np.testing.assert_array_equal(found["spans"], spans)
        np.testing.assert_allclose(found["scores"], scores, atol=1e-12)
