"""Sessions on exported graphs, and exports that take a moment."""

import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def session_of():
    """Function: an ONNX Runtime session on one thread, from a path or from bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3

    def make(model):
        model = str(model) if isinstance(model, Path) else model
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def run(feeds):
            names = [output.name for output in session.get_outputs()]
            wanted = {node.name: np.ascontiguousarray(feeds[node.name]) for node in session.get_inputs()}
            return dict(zip(names, session.run(names, wanted), strict=True))

        return run

    return make


@pytest.fixture(scope="session")
def tokens_in_fp16(checkpoints, made_once):
    """The bundle of the token run in fp16, its fused ops single nodes. Copy it to change it."""
    return _exported_in("fp16", checkpoints["tiny_vlm"], made_once)


@pytest.fixture(scope="session")
def words_in_bf16(checkpoints, made_once):
    """The bundle of the GloVe run in bf16, its fused ops single nodes. Copy it to change it."""
    return _exported_in("bf16", checkpoints["tiny_glove"], made_once)


def _exported_in(precision, checkpoint, made_once):
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint
    from img_deploy.export.verify import Verification
    from img_deploy.runtime.bundle import Bundle

    def make(folder):
        made = bundle_from_checkpoint(checkpoint, folder, ExportOptions(precisions=(precision,), plugins=True))
        assert Verification.from_dict(Bundle.open(folder).manifest.verification) == made

    return made_once(f"exported_{precision}", make)


@pytest.fixture
def quick_graphs(exported, monkeypatch):
    """Exports of the tiny GloVe run take their graphs from the exported bundle: tracing takes a while."""
    from img_deploy.export import bundle_from_checkpoint as module

    source = exported("tiny_glove") / "onnx" / "fp32"

    def copied(_network, folder, precision, _plugins, tell):
        tell(f"copying ({precision})")
        shutil.copytree(source, folder / "onnx" / precision)
        return {path.stem: f"onnx/{precision}/{path.name}" for path in (folder / "onnx" / precision).iterdir()}

    monkeypatch.setattr(module, "_write_graphs", copied)


@pytest.fixture
def best(checkpoints, tmp_path):
    """The tiny GloVe run as a checkpoint file."""
    path = tmp_path / "best.pt"
    checkpoints["tiny_glove"].save(path)
    return path
