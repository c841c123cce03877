"""The graphs as a model repository of NVIDIA's inference server (Triton): a ``config.pbtxt`` and a copy of each.

Batches are the server's: ``max_batch_size`` and dynamic batching, which joins requests whose inputs have the same
shape. Two ensembles go the whole way from features and words to logits: ``moments`` for a video with sound,
``visual_moments`` for one without.

Source: the server's model configuration, ``model_config.proto``.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from img_deploy.kernels.dtypes import named
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import GraphSpec, TensorSpec, graph_specs

FOLDER = "model_repository"
MAX_BATCH = 64
QUEUE_MICROSECONDS = 2000
"""For which a request waits for others of its shape."""
ENSEMBLES = {"moments": "grounder", "visual_moments": "visual_grounder"}
"""Name -> the graph that ends it, after both encoders."""


def write_model_repository(
    folder: Path, config: ModelConfig, precision: str, graphs: Mapping[str, str], place: Path
) -> None:
    """Write the repository to ``place``.

    Args:
        folder: of the bundle that is being written.
        precision: of the graphs.
        graphs: name -> ONNX file, relative to ``folder``.
    """
    specs = graph_specs(config)
    for name, spec in specs.items():
        version = place / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(folder / graphs[name], version / "model.onnx")
        (place / name / "config.pbtxt").write_text(graph_config(spec, precision), encoding="utf-8")
    for name, last in ENSEMBLES.items():
        # The server wants a folder of a version for an ensemble too, though there is nothing to put into it.
        (place / name / "1").mkdir(parents=True)
        (place / name / "1" / ".keep").touch()
        steps = [specs["video_encoder"], specs["query_encoder"], specs[last]]
        (place / name / "config.pbtxt").write_text(ensemble_config(name, steps, precision), encoding="utf-8")


def graph_config(spec: GraphSpec, precision: str) -> str:
    """``config.pbtxt`` of one graph."""
    lines = [f'name: "{spec.name}"', 'backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH}"]
    lines += [*_tensors("input", spec.inputs, precision), *_tensors("output", spec.outputs, precision)]
    return _text([*lines, f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}"])


def ensemble_config(name: str, steps: Iterable[GraphSpec], precision: str) -> str:
    """``config.pbtxt`` of graphs that run one after the other; a tensor has the same name in all of them."""
    steps = list(steps)
    made = {tensor.name for step in steps for tensor in step.outputs}
    inputs = {tensor.name: tensor for step in steps for tensor in step.inputs if tensor.name not in made}
    lines = [f'name: "{name}"', 'platform: "ensemble"', f"max_batch_size: {MAX_BATCH}"]
    lines += [*_tensors("input", inputs.values(), precision), *_tensors("output", steps[-1].outputs, precision)]
    lines.append("ensemble_scheduling {")
    needed = {tensor.name for step in steps for tensor in step.inputs} | {tensor.name for tensor in steps[-1].outputs}
    for step in steps:
        lines += ["  step {", f'    model_name: "{step.name}"', "    model_version: -1"]
        lines += [f'    input_map {{ key: "{one.name}" value: "{one.name}" }}' for one in step.inputs]
        outputs = (one for one in step.outputs if one.name in needed)
        lines += [f'    output_map {{ key: "{one.name}" value: "{one.name}" }}' for one in outputs]
        lines.append("  }")
    return _text([*lines, "}"])


def _tensors(kind: str, tensors: Iterable[TensorSpec], precision: str) -> list[str]:
    """The axes without the batch; a number per item is an axis of 1 that the server takes away."""
    lines = []
    for tensor in tensors:
        kept = [str(axis if isinstance(axis, int) else -1) for axis in tensor.axes[1:]]
        shape = f"dims: [ {', '.join(kept)} ]" if kept else "dims: [ 1 ] reshape: { shape: [ ] }"
        lines.append(f'{kind} {{ name: "{tensor.name}" data_type: {_data_type(tensor, precision)} {shape} }}')
    return lines


def _data_type(tensor: TensorSpec, precision: str) -> str:
    name = precision if tensor.dtype == "float" else named("torch", tensor.dtype).name
    return f"TYPE_{name.upper()}"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
