"""Graphs in fp16 and bf16: types baked in, float32 islands where precision is lost, and a budget for the rest."""

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest

from img_deploy.errors import VerificationError
from img_deploy.export import verify
from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint
from img_deploy.export.precision import TypedTorchBackend
from img_deploy.export.verify import Budget, Verification
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.bundle import Bundle

NAME = onnx.TensorProto.DataType.Name
ISLANDS = {"Softmax", "LayerNormalization", "GRU"}


@pytest.fixture(scope="module")
def half(tokens_in_fp16):
    return Bundle.open(tokens_in_fp16)


def typed_nodes(model):
    """(node, types of its inputs) of the graph with its functions in place, but for what weights alone decide."""
    flat = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model), strict_mode=True)
    known = (*flat.graph.value_info, *flat.graph.input, *flat.graph.output)
    kinds = {value.name: NAME(value.type.tensor_type.elem_type) for value in known}
    kinds |= {value.name: NAME(value.data_type) for value in flat.graph.initializer}
    decided = {value.name for value in flat.graph.initializer}
    nodes = []
    for node in flat.graph.node:
        if decided.issuperset(node.input):
            decided.update(node.output)
        else:
            nodes.append((node, [kinds[name] for name in node.input if name]))
    return nodes


def check_types(model, storage):
    nodes = typed_nodes(model)
    for node, kinds in nodes:
        if node.op_type in ISLANDS:
            assert kinds[0] == "FLOAT", f"{node.name} loses precision in {storage}"
    weights = [kinds for node, kinds in nodes if node.op_type == "MatMul"]
    assert any(storage in kinds for kinds in weights)
    assert not any("FLOAT" in kinds for kinds in weights)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_fp16_types(half, name):
    """A strongly typed runtime would compute in float32 after all, or sums of squares would overflow."""
    bundle = half
    model = onnx.load(bundle.graph(name))
    check_types(model, "FLOAT16")
    spec = graph_specs(bundle.manifest.model)[name]
    kinds = {value.name: NAME(value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)}
    for tensor in (*spec.inputs, *spec.outputs):
        expected = {"float": "FLOAT16", "float32": "FLOAT", "bool": "BOOL", "int64": "INT64"}[tensor.dtype]
        assert kinds[tensor.name] == expected


@pytest.mark.parametrize(("clips", "sound"), [(60, 1), (1, 60), (3000, 1), (1, 3000)])
def test_large_features_give_the_moment_of_fp32_or_nothing_finite(half, checkpoints, clips, sound):
    """An overflow that the runtime swallows gives the whole video at a low score, finite."""
    bundle = half
    generator = np.random.default_rng(5)
    config = bundle.manifest.model
    feeds = {
        "video": clips * generator.standard_normal((1, 9, config.video_dim)).astype(np.float32),
        "audio": sound * generator.standard_normal((1, 9, config.audio_dim)).astype(np.float32),
        "text": generator.standard_normal((1, 5, config.text_dim)).astype(np.float32),
        "clip_mask": np.ones((1, 9), bool),
        "word_mask": np.ones((1, 5), bool),
    }
    graphs = ("video_encoder", "query_encoder", "grounder")
    wanted, found = dict(feeds), dict(feeds)
    for graph in graphs:
        wanted |= TypedTorchBackend(checkpoints["tiny_vlm"].network(), "fp32").run(graph, wanted)
        session = onnxruntime.InferenceSession(bundle.graph(graph), providers=["CPUExecutionProvider"])
        given = {
            value.name: found[value.name].astype(np.float16) if value.type == "tensor(float16)" else found[value.name]
            for value in session.get_inputs()
        }
        names = [value.name for value in session.get_outputs()]
        found |= dict(zip(names, session.run(names, given), strict=True))
    finite = all(np.isfinite(found[name]).all() for name in ("saliency_visual", "saliency_audio"))
    assert finite or max(clips, sound) > 100
    if finite:
        for name in ("start_logits", "end_logits"):
            np.testing.assert_allclose(found[name], wanted[name], atol=5e-2)


def test_fp16_is_verified_and_half_as_large(half, exported):
    """A file that says fp16 might hold fp32, or go unverified."""
    bundle = half
    verification = Verification.from_dict(bundle.manifest.verification)
    assert verification.passed
    tried = {(row.backend, row.graph) for row in verification.rows if row.precision == "fp16"}
    assert tried == {(backend, graph) for backend in ("onnxruntime", "torch") for graph in GRAPH_NAMES}
    assert all(row.largest > 1e-4 for row in verification.rows if row.precision == "fp16")
    grounders = [row for row in verification.rows if "grounder" in row.graph]
    assert all(row.iou is not None and row.agreement is not None for row in grounders)
    full = Bundle.open(exported("tiny_vlm")).graph("grounder").stat().st_size
    assert bundle.graph("grounder").stat().st_size < 0.65 * full


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_bf16_types(words_in_bf16, name):
    """TensorRT would refuse an op in a type it has not, or run softmax in 8 bits."""
    brain = onnx.load(Bundle.open(words_in_bf16).graph(name))
    check_types(brain, "BFLOAT16")
    schemas = {node.op_type: onnx.defs.get_schema(node.op_type, 18) for node, _ in typed_nodes(brain)}
    for node, kinds in typed_nodes(brain):
        schema = schemas[node.op_type]
        allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        if "BFLOAT16" in kinds[:1]:
            assert "tensor(bfloat16)" in allowed[schema.inputs[0].type_str], node.name


def test_a_precision_beyond_its_budget_is_refused(checkpoints, tmp_path, half, monkeypatch):
    """A bundle would answer with spans that fp32 does not give."""
    from img_deploy.export import bundle_from_checkpoint as module

    bundle = half

    def copied(_network, folder, precision, _plugins, _tell):
        import shutil

        shutil.copytree(bundle.folder / "onnx" / "fp16", folder / "onnx" / precision)
        return {name: f"onnx/{precision}/{name}.onnx" for name in GRAPH_NAMES}

    monkeypatch.setattr(module, "_write_graphs", copied)
    monkeypatch.setitem(verify.BUDGETS, "fp16", Budget(largest=1e-3, agreement=0.9, iou=0.9))
    with pytest.raises(VerificationError, match=r"fp16 grounder: off by .* expected at most 0\.001"):
        bundle_from_checkpoint(checkpoints["tiny_vlm"], tmp_path / "deploy", ExportOptions(precisions=("fp16",)))
    assert not (tmp_path / "deploy").exists()
