"""Exported bundles of the small runs, each made once however many processes run the tests."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

WITH_PLUGINS = "tiny_vlm"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder that all processes of this test run see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def exported(checkpoints, shared_folder):
    """Function: the exported fp32 bundle of a small run. Not to be changed: copy it.

    The token run keeps its fused ops as nodes, so that both forms go through every test.
    """
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint

    def folder_of(run: str) -> Path:
        folder, lock = shared_folder / f"exported_{run}", shared_folder / f"exporting_{run}"
        while not folder.exists():
            try:
                lock.mkdir()
            except FileExistsError:
                time.sleep(0.2)  # another process makes it
                continue
            try:
                if not folder.exists():
                    bundle_from_checkpoint(checkpoints[run], folder, ExportOptions(plugins=run == WITH_PLUGINS))
            finally:
                lock.rmdir()
        return folder

    return folder_of


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


@pytest.fixture
def run_cli(capsys):
    """Function: run a command line in this process -> code, out, err."""

    def run(*arguments):
        from img_deploy.cli.main import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr()
        return SimpleNamespace(code=left.value.code, out=text.out, err=text.err)

    return run


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
