"""The exported files themselves: valid, free in every axis, well named, and telling nothing of the machine."""

import getpass
import hashlib
import json
import os
from pathlib import Path

import onnx
import pytest

from img_deploy.kernels.lowering import DOMAIN
from img_deploy.kernels.plugin_form import plugin_form
from img_deploy.kernels.plugin_names import GRU_NODE
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.bundle import Bundle

RUNS = ("tiny_glove", "tiny_vlm")
ONNX_TYPES = {"float": 1, "float32": 1, "bool": 9, "int64": 7}
TRAINING_OPS = {"Dropout", "BatchNormalization", "RandomNormal", "RandomNormalLike", "RandomUniform", "Bernoulli"}


@pytest.fixture(scope="module", params=[(run, graph) for run in RUNS for graph in GRAPH_NAMES], ids="-".join)
def graph(request, exported):
    """(spec, model, path) of one graph of one run."""
    run, name = request.param
    bundle = Bundle.open(exported(run))
    path = bundle.graph(name)
    return graph_specs(bundle.manifest.model)[name], onnx.load(path), path


def test_valid_with_strict_shape_inference(graph):
    """A runtime stricter than ours (TensorRT) would refuse the file."""
    _, model, _ = graph
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    known = {value.name for value in inferred.graph.value_info} | {value.name for value in model.graph.output}
    assert {name for node in model.graph.node for name in node.output if name} <= known


def test_inputs_and_outputs_as_declared(graph):
    """The runtime feeds by name; an axis with a number in it takes no other size."""
    spec, model, _ = graph
    for found, declared in ((model.graph.input, spec.inputs), (model.graph.output, spec.outputs)):
        shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in found]
        assert [value.name for value in found] == [tensor.name for tensor in declared]
        assert shapes == [list(tensor.axes) for tensor in declared]
        types = [value.type.tensor_type.elem_type for value in found]
        assert types == [ONNX_TYPES[tensor.dtype] for tensor in declared]


def standard_nodes(model):
    """Nodes of the graph and of the functions it calls."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return [node for node in nodes if node.domain != DOMAIN]


def test_standard_ops_and_none_of_training(graph):
    """Another runtime than ours would not know the op; a training op would draw or drop at inference."""
    _, model, _ = graph
    ops = {node.op_type for node in standard_nodes(model)}
    assert not TRAINING_OPS & ops
    assert all(onnx.defs.has(name) for name in ops)
    assert {node.domain for node in standard_nodes(model)} == {""}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert 18 <= versions[""] <= 20
    assert versions.keys() <= {"", DOMAIN}


def test_without_plugins_there_is_no_domain_of_ours(exported):
    """`--plugins off` promises standard ops alone."""
    for name in GRAPH_NAMES:
        model = onnx.load(Bundle.open(exported("tiny_glove")).graph(name))
        assert not model.functions
        assert [entry.domain for entry in model.opset_import] == [""]


def test_plugin_nodes(exported):
    """TensorRT would not find the plugin, or take a standard op for it; another runtime would miss the body."""
    seen = set()
    for name in GRAPH_NAMES:
        model = onnx.load(Bundle.open(exported("tiny_vlm")).graph(name))
        functions = {function.name: function for function in model.functions}
        assert len(functions) == len(model.functions)
        nodes = [node for node in model.graph.node if node.domain == DOMAIN]
        assert functions.keys() == {node.op_type for node in nodes}
        for node in nodes:
            assert node.op_type.startswith("Img")
            assert not onnx.defs.has(node.op_type)
            assert len(node.input) == len(functions[node.op_type].input)
            if node.op_type.startswith(GRU_NODE):
                continue  # an engine splits it into a matrix product and a plugin
            form = plugin_form(node.op_type)
            assert list(functions[node.op_type].input) == list(form.inputs)
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            assert attributes == {"plugin_namespace": b"img_deploy", "plugin_version": b"1", "aot": 1}
        seen |= functions.keys()
    assert {name.rstrip("0123456789") for name in seen} == {
        "ImgSelfAttention",
        "ImgWordsCrossAttention",
        "ImgSlotsCrossAttention",
        "ImgConvBlock",
        "ImgLocalFusion",
        "ImgGlobalFusion",
        "ImgQueryAttention",
        "ImgSlotAttention",
        "ImgImportance",
        "ImgGate",
        "ImgBoundaryLogits",
        GRU_NODE,
    }


def test_nothing_unused(graph):
    """Weights of the unused heads would double the file."""
    _, model, _ = graph
    used = {name for node in model.graph.node for name in node.input}
    assert [value.name for value in model.graph.initializer if value.name not in used] == []
    outputs = {value.name for value in model.graph.output}
    idle = [node.name for node in model.graph.node if not (set(node.output) & (used | outputs))]
    assert idle == []


def test_names_say_where_a_node_stems_from(graph):
    """A profile of `node_42` helps nobody."""
    _, model, _ = graph
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(node.op_type in node.name.rpartition("/")[2] for node in model.graph.node)
    inside = [name for name in names if "/" in name]
    # Sizes of the inputs belong to no module.
    assert {node.op_type for node in model.graph.node if "/" not in node.name} <= {"Shape", "Squeeze"}
    assert any(name.startswith("visual.") for name in inside)


def test_what_it_says_of_itself(graph):
    """A file found alone could not be told from any other."""
    spec, model, path = graph
    told = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads((path.parents[2] / "manifest.json").read_text())["config"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    assert told["format"] == "img-deploy"
    assert (told["graph"], told["precision"], told["config_sha256"]) == (spec.name, "fp32", digest)
    assert told["torch"]
    assert told["onnx"]
    assert told["schema"]


def test_no_trace_of_the_machine(graph):
    """Stack traces of the exporter carry the paths and the user of whoever exported."""
    _, model, path = graph
    content = path.read_bytes()
    marks = [os.getcwd(), str(Path.home()), str(Path(__file__).parents[2]), "site-packages", ".py", "stack_trace"]
    if len(getpass.getuser()) > 4:
        marks.append(getpass.getuser())
    assert [mark for mark in marks if mark.encode() in content] == []
    assert not any(node.doc_string or node.metadata_props for node in standard_nodes(model))


def test_gru_nodes(exported):
    """One GRU over padded clips, or one that ignores the lengths, would let padding into the answer."""
    model = onnx.load(Bundle.open(exported("tiny_glove")).graph("grounder"))
    nodes = [node for node in model.graph.node if node.op_type == "GRU"]
    assert len(nodes) == 3 * 3 + 1
    for node in nodes:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        assert attributes["direction"] == b"bidirectional"
        assert attributes["linear_before_reset"] == 1
        assert len(node.input) >= 5
        assert node.input[4]


def test_weights_are_folded(exported):
    """Weights transposed or reordered at every start would slow the load, and at every run the answer."""
    for name in GRAPH_NAMES:
        model = onnx.load(Bundle.open(exported("tiny_glove")).graph(name))
        constants = {value.name for value in model.graph.initializer}
        idle = [node.name for node in model.graph.node if node.input and set(node.input) <= constants]
        assert idle == []


def test_the_same_checkpoint_gives_the_same_bytes(checkpoints, exported):
    """Bundles of one checkpoint could not be compared by their hashes."""
    from img_deploy.export.functions import FunctionLibrary
    from img_deploy.export.onnx_from_program import model_metadata, onnx_from_program
    from img_deploy.export.programs import program_from_graph

    network = checkpoints["tiny_vlm"].network()
    spec = graph_specs(network.config)["visual_grounder"]
    metadata = model_metadata(spec, network.config, "fp32", plugins=True)
    program = program_from_graph(network, spec)
    again = onnx_from_program(program, spec, FunctionLibrary(), metadata, plugins=True)
    path = Bundle.open(exported("tiny_vlm")).graph("visual_grounder")
    assert onnx.printer.to_text(again).splitlines() == onnx.printer.to_text(onnx.load(path)).splitlines()
    assert again.SerializeToString(deterministic=True) == onnx.load(path).SerializeToString(deterministic=True)
