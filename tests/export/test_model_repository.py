"""The model repository of NVIDIA's server, against the server's own definitions and the graphs themselves."""

import pytest

from img_deploy.export.model_repository import (
    ENSEMBLES,
    FOLDER,
    ensemble_config,
    graph_config,
    write_model_repository,
)
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.bundle import Bundle

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (pip install tritonclient[grpc])")
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_BOOL": "tensor(bool)", "TYPE_INT64": "tensor(int64)"}


def parsed(text):
    """A configuration, by the server's own protobuf definitions, which refuse unknown fields and types."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def repository(checkpoints, exported, tmp_path_factory):
    """Of the exported tiny GloVe run."""
    bundle, place = Bundle.open(exported("tiny_glove")), tmp_path_factory.mktemp("repository") / FOLDER
    graphs = bundle.manifest.graphs["fp32"]
    write_model_repository(bundle.folder, checkpoints["tiny_glove"].config, "fp32", graphs, place)
    return place


def type_of(tensor):
    return model_config_pb2.DataType.Name(tensor.data_type)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_a_configuration_says_what_its_graph_takes_and_gives(repository, name):
    """The server would refuse to load the graph, or requests that are right."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    config = parsed((repository / name / "config.pbtxt").read_text())
    session = ort.InferenceSession(str(repository / name / "1" / "model.onnx"))
    assert (config.name, config.backend) == (name, "onnxruntime")
    assert config.max_batch_size > 1
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    for told, nodes in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [one.name for one in told] == [one.name for one in nodes]
        for tensor, node in zip(told, nodes, strict=True):
            assert TYPES[type_of(tensor)] == node.type
            dims = [] if tensor.HasField("reshape") else list(tensor.dims)
            assert dims == [axis if isinstance(axis, int) else -1 for axis in node.shape[1:]], node.name


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_goes_the_whole_way(repository, name):
    """A step would ask for a tensor that nothing makes, and the server would refuse the ensemble."""
    config = parsed((repository / name / "config.pbtxt").read_text())
    models = {graph: parsed((repository / graph / "config.pbtxt").read_text()) for graph in GRAPH_NAMES}
    there = {one.name: (type_of(one), list(one.dims)) for one in config.input}
    used = set()
    for step in config.ensemble_scheduling.step:
        model = models[step.model_name]
        assert set(step.input_map) == {one.name for one in model.input}
        for one in model.input:
            assert there[step.input_map[one.name]] == (type_of(one), list(one.dims))
        used.update(step.input_map.values())
        made = {one.name: (type_of(one), list(one.dims)) for one in model.output}
        there |= {value: made[key] for key, value in step.output_map.items()}
    assert {one.name for one in config.input} <= used
    for one in config.output:
        assert there[one.name] == (type_of(one), list(one.dims))
    assert (repository / name / "1").is_dir()


@pytest.mark.parametrize("run", ["tiny_glove", "tiny_vlm"])
@pytest.mark.parametrize(("precision", "kind"), [("fp16", "TYPE_FP16"), ("bf16", "TYPE_BF16")])
def test_types_follow_the_precision(checkpoints, run, precision, kind):
    """A client would send numbers of another width than the graph reads."""
    specs = graph_specs(checkpoints[run].config)
    grounder = parsed(graph_config(specs["grounder"], precision))
    assert type_of(grounder.input[0]) == kind
    assert {type_of(one) for one in grounder.output} == {"TYPE_FP32"}
    steps = [specs["video_encoder"], specs["query_encoder"], specs["grounder"]]
    assert type_of(parsed(ensemble_config("moments", steps, precision)).input[0]) == kind


@pytest.mark.usefixtures("quick_graphs")
def test_the_repository_is_part_of_the_bundle(best, run_cli, tmp_path):
    """The target would do nothing, or a changed file would go unseen."""
    done = run_cli("export", "--ckpt", best, "--out", tmp_path / "deploy", "--targets", "onnx,model-repository")
    assert done.code == 0, done.err
    bundle = Bundle.open(tmp_path / "deploy")
    bundle.check_all()
    for name in GRAPH_NAMES:
        copied = bundle.file(f"{FOLDER}/{name}/1/model.onnx")
        assert copied.read_bytes() == bundle.graph(name).read_bytes()
    for name in ENSEMBLES:
        assert parsed(bundle.file(f"{FOLDER}/{name}/config.pbtxt").read_text()).name == name
