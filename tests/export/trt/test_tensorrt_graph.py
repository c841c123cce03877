"""Exported graphs as TensorRT's parser gets them: operators it knows, plugins it must find, and the same answers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from img_deploy.errors import BackendError
from img_deploy.export.tensorrt_graph import tensorrt_graph
from img_deploy.kernels.lowering import DOMAIN

LIMITS = {"batch": 64, "clips": 128, "words": 40, "chars": 30}
STACKS, WIDTH, HIDDEN = 2, 12, 16


@pytest.fixture(scope="module")
def evaluated() -> Callable[[onnx.ModelProto, dict[str, np.ndarray]], list[np.ndarray]]:
    """Outputs of a graph whose plugins are computed by the references of their declarations."""
    spec = importlib.util.spec_from_file_location("evaluation", Path(__file__).with_name("double") / "evaluation.py")
    evaluation: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(evaluation)

    def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[Any]:
        return evaluation.runner(model)([value.name for value in model.graph.output], feeds)

    return run


def gru_model(rng: np.random.Generator) -> onnx.ModelProto:
    """A graph of one GRU layer as it is exported, its body standing for standard ops that nobody runs here."""
    shapes = {
        "weight_ih": (STACKS, 2, 3 * HIDDEN, WIDTH),
        "weight_hh": (STACKS, 2, 3 * HIDDEN, HIDDEN),
        "bias_ih": (STACKS, 2, 3 * HIDDEN),
        "bias_hh": (STACKS, 2, 3 * HIDDEN),
    }
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.3, name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node("ImgGruLayer2", ["x", "lengths", *shapes], ["y"], "layer/ImgGruLayer2", domain=DOMAIN)
    body = helper.make_function(
        DOMAIN,
        "ImgGruLayer2",
        ["a", "b", "c", "d", "e", "f"],
        ["o"],
        [helper.make_node("Identity", ["a"], ["o"])],
        [helper.make_opsetid("", 18)],
    )
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "clips", STACKS, WIDTH]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "clips", STACKS, 2 * HIDDEN])]
    graph = helper.make_graph([node], "gru", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=10)


def test_the_gru_becomes_a_product_and_the_plugin_of_its_loop(
    tmp_path: Path, evaluated: Callable[..., list[np.ndarray]]
) -> None:
    """Left whole, TensorRT runs it as a loop of small kernels; split wrongly, gates meet the wrong direction."""
    import torch

    from img_deploy.kernels.bigru.reference import bigru

    rng = np.random.default_rng(5)
    model = gru_model(rng)
    onnx.save(model, tmp_path / "gru.onnx")
    prepared = tensorrt_graph(tmp_path / "gru.onnx", LIMITS)
    (plugin,) = prepared.plugins
    assert (plugin.name, plugin.node) == ("layer/ImgGruLayer2", "ImgGruRecurrence")
    assert plugin.types == ("fp32", "int32", "fp32", "fp32", "fp32")
    assert plugin.sizes["gates"] == (STACKS, 64, 128, 6 * HIDDEN)
    made = onnx.load_from_string(prepared.model)
    assert not made.functions
    assert {node.op_type for node in made.graph.node if not node.domain} <= {"Reshape", "Transpose", "MatMul"}
    feeds = {
        "x": rng.standard_normal((3, 7, STACKS, WIDTH)).astype(np.float32),
        "lengths": np.array([7, 0, 4], np.int32),
    }
    (found,) = evaluated(made, feeds)
    weights = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in model.graph.initializer}
    wanted = bigru(torch.from_numpy(feeds["x"]), torch.from_numpy(feeds["lengths"]), *weights.values())
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize(("storage", "tolerance"), [(np.float32, 1e-5), (np.float16, 2e-3)])
@pytest.mark.parametrize("clips", [1, 7, 8, 9, 31])
def test_the_gru_as_one_loop_answers_as_the_reference(
    clips: int, storage: Any, tolerance: float, session_of: Callable[[bytes], Callable]
) -> None:
    """Chunks of steps would lose the last ones, a reversed direction begin in the padding, or stacks meet each other's
    weights, and only a card would show it."""
    import torch

    from img_deploy.export.gru_loop import gru_loop
    from img_deploy.kernels.bigru.reference import bigru

    rng = np.random.default_rng(clips)
    model = gru_model(rng)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(storage))
    weights = [onnx.numpy_helper.to_array(each).astype(storage) for each in model.graph.initializer]
    made = gru_loop(model.graph.node[0], kind, STACKS, HIDDEN)
    named = [onnx.numpy_helper.from_array(*pair) for pair in zip(weights, model.graph.node[0].input[2:], strict=True)]
    inputs = [
        helper.make_tensor_value_info("x", kind, ["batch", "clips", STACKS, WIDTH]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("y", kind, ["batch", "clips", STACKS, 2 * HIDDEN])]
    graph = helper.make_graph(made.nodes, "gru", inputs, outputs, [*named, *made.constants])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(whole, full_check=True)
    x = rng.standard_normal((4, clips, STACKS, WIDTH)).astype(storage)
    lengths = np.array([clips, 0, 1, max(1, clips // 2)], np.int32)
    found = session_of(whole.SerializeToString())({"x": x, "lengths": lengths})["y"]
    exact = [torch.from_numpy(each.astype(np.float32)) for each in (x, *weights)]
    wanted = bigru(exact[0], torch.from_numpy(lengths), *exact[1:]).numpy()
    np.testing.assert_allclose(found.astype(np.float32), wanted, atol=tolerance)


def test_the_nodes_of_a_bundle_become_loops_without_plugins(tmp_path: Path) -> None:
    """TensorRT would run each stack as a loop of its own, a kernel or more for every op of every step."""
    onnx.save(gru_model(np.random.default_rng(5)), tmp_path / "gru.onnx")
    made = onnx.load_from_string(tensorrt_graph(tmp_path / "gru.onnx", LIMITS, plugins=False).model)
    ops = [node.op_type for node in made.graph.node]
    assert ops.count("Scan") == 1
    assert "GRU" not in ops


def test_a_gru_too_large_for_its_kernel_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would be refused, where a loop of TensorRT's own would do."""
    monkeypatch.setattr("img_deploy.export.tensorrt_graph._LARGEST_HIDDEN", HIDDEN - 1)
    onnx.save(gru_model(np.random.default_rng(5)), tmp_path / "gru.onnx")
    prepared = tensorrt_graph(tmp_path / "gru.onnx", LIMITS)
    assert prepared.plugins == ()
    assert [function.name for function in onnx.load_from_string(prepared.model).functions] == ["ImgGruLayer2"]


def test_without_plugins_only_standard_ops_are_left(tmp_path: Path) -> None:
    """`--plugins off` is how a kernel is ruled out: nothing of ours may remain."""
    onnx.save(gru_model(np.random.default_rng(5)), tmp_path / "gru.onnx")
    prepared = tensorrt_graph(tmp_path / "gru.onnx", LIMITS, plugins=False)
    made = onnx.load_from_string(prepared.model)
    assert prepared.plugins == ()
    assert not made.functions
    assert {node.domain for node in made.graph.node} == {""}


def test_exported_plugin_nodes_answer_as_their_bodies_do(
    plugin_graph: Path, evaluated: Callable[..., list[np.ndarray]], session_of: Callable[[Path], Callable]
) -> None:
    """The inputs of a node would not be those of its plugin, or of another order, and only a GPU would show it."""
    prepared = tensorrt_graph(plugin_graph, LIMITS)
    made = onnx.load_from_string(prepared.model)
    assert {plugin.node for plugin in prepared.plugins} == {
        "ImgWordsCrossAttention2",
        "ImgQueryAttention",
        "ImgConvBlock4",
        "ImgSelfAttention2",
        "ImgBoundaryLogits",
    }
    assert len({plugin.name for plugin in prepared.plugins}) == len(prepared.plugins) == 7
    assert not made.functions
    for node in made.graph.node:
        if node.domain:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            assert attributes == {"plugin_namespace": b"img_deploy", "plugin_version": b"1", "aot": 1}
    rng = np.random.default_rng(2)
    feeds = {
        "visual_clips": rng.standard_normal((3, 9, 16)).astype(np.float32),
        "visual_words": rng.standard_normal((3, 5, 16)).astype(np.float32),
        "clip_mask": np.arange(9)[None] < np.array([[9], [4], [1]]),
        "word_mask": np.arange(5)[None] < np.array([[2], [5], [1]]),
    }
    wanted = session_of(plugin_graph)(feeds)
    for value, found in zip(made.graph.output, evaluated(made, feeds), strict=True):
        np.testing.assert_allclose(
            found[feeds["clip_mask"]], wanted[value.name][feeds["clip_mask"]], atol=2e-5, err_msg=value.name
        )


@pytest.mark.parametrize("how", ["unknown", "inputs", "number"])
def test_a_node_without_a_plugin_is_refused(how: str, plugin_graph: Path, tmp_path: Path) -> None:
    """TensorRT would inline it in silence, or run a kernel on shifted inputs."""
    model = onnx.load(plugin_graph)
    node = next(node for node in model.graph.node if node.op_type == "ImgConvBlock4")
    if how == "unknown":
        node.op_type = "ImgOther"
    elif how == "inputs":
        del node.input[-1]
    else:
        next(node for node in model.graph.node if "SelfAttention" in node.op_type).op_type = "ImgSelfAttention"
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(BackendError, match="export the bundle again"):
        tensorrt_graph(tmp_path / "graph.onnx", LIMITS)
