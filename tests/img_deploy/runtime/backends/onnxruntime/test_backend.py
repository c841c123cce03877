"""ONNX Runtime: its sessions, and what it says when something is wrong."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from img_deploy.errors import BackendError, BundleError
from img_deploy.files import sha256
from img_deploy.runtime.backends.choose import choose
from img_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from img_deploy.runtime.bundle import Bundle

WORDS = {"visual_words": np.ones((1, 2, 32), np.float32), "word_mask": np.ones((1, 2), bool)}
CLIPS = {"visual_clips": np.ones((1, 3, 32), np.float32), "clip_mask": np.ones((1, 3), bool)}


@pytest.fixture
def bundle(exported):
    return Bundle.open(exported("tiny_glove"))


@pytest.fixture
def changed(exported, tmp_path):
    """Function: a copy of the bundle with other content in a graph's file; with its new hash or the old one."""

    def change(graph, content, rehash):
        folder = Path(shutil.copytree(exported("tiny_glove"), tmp_path / "changed"))
        manifest = json.loads((folder / "manifest.json").read_text())
        name = manifest["graphs"]["fp32"][graph]
        (folder / name).write_bytes(content)
        if rehash:
            manifest["files"][name] = sha256(folder / name)
            (folder / "manifest.json").write_text(json.dumps(manifest))
        return Bundle.open(folder)

    return change


def test_auto_takes_it(bundle):
    """A machine without a GPU would be answered by the slow reference."""
    choice = choose(bundle)
    assert (choice.backend.name, choice.backend.device, choice.backend.precision) == ("onnxruntime", "cpu", "fp32")
    assert "no NVIDIA GPU" in choice.out["onnxruntime:cuda"]


def test_sessions_are_made_once_and_when_needed(bundle, monkeypatch):
    """Four graphs would be loaded for a question that needs two, or one graph by every thread."""
    loads = []
    load = OrtBackend._load
    monkeypatch.setattr(OrtBackend, "_load", lambda self, graph: loads.append(graph) or load(self, graph))
    backend = OrtBackend(bundle, threads=1)
    assert loads == []
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda _: backend.run("visual_grounder", CLIPS | WORDS), range(8)))
    assert loads == ["visual_grounder"]
    for out in outputs:
        np.testing.assert_array_equal(out["start_logits"], outputs[0]["start_logits"])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_rows_shared_out_to_threads(bundle, batch):
    """A batch that three threads share would lose rows, mix them up, or give other numbers than one thread."""
    random = np.random.default_rng(batch)
    clips = [random.standard_normal((length, 32), np.float32) for length in random.integers(1, 9, batch)]
    mask = np.arange(max(map(len, clips))) < np.array([[len(each)] for each in clips])
    words = {name: np.repeat(each, batch, axis=0) for name, each in WORDS.items()}
    feeds = {"visual_clips": clips, "clip_mask": mask, **words}
    expected, found = (OrtBackend(bundle, threads=threads).run("visual_grounder", feeds) for threads in (1, 3))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, rtol=1e-6)


def test_inputs_of_other_types_are_brought_to_the_graphs(bundle):
    """Features in half or double precision would be refused deep inside."""
    backend = OrtBackend(bundle, threads=1)
    expected = backend.run("visual_grounder", CLIPS | WORDS)
    for dtype in (np.float16, np.float64):
        other = {name: array.astype(dtype) for name, array in (CLIPS | WORDS).items() if "mask" not in name}
        np.testing.assert_array_equal(
            backend.run("visual_grounder", CLIPS | WORDS | other)["start_logits"], expected["start_logits"]
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failed_run_is_told_in_one_line(bundle, threads):
    """A failure would end in another library's traceback."""
    backend = OrtBackend(bundle, threads=threads)
    two = {name: np.repeat(each, 2, axis=0) for name, each in (CLIPS | WORDS).items()}
    with pytest.raises(BackendError, match="visual_grounder failed") as failed:
        backend.run("visual_grounder", two | {"visual_clips": np.ones((2, 3, 31), np.float32)})
    assert "\n" not in str(failed.value)
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run("visual_grounder", two)


def test_damaged_graphs(changed):
    """A tampered graph would answer, or be passed over for another backend in silence."""
    with pytest.raises(BundleError, match="sha256"):
        choose(changed("video_encoder", b"something else", rehash=False))


def test_a_graph_that_does_not_load(changed):
    """A graph that this ONNX Runtime cannot read would end the run, though another backend works."""
    bundle = changed("video_encoder", b"something else", rehash=True)
    with pytest.raises(BackendError, match="does not load"):
        choose(bundle, "onnxruntime")
    choice = choose(bundle)
    assert choice.backend.name == "torch"
    assert "does not load" in choice.out["onnxruntime:cpu"]


def test_a_graph_in_the_place_of_another(changed, bundle):
    """A manifest that names one graph's file for another would end in a KeyError of the first question."""
    swapped = changed("video_encoder", bundle.graph("grounder").read_bytes(), rehash=True)
    with pytest.raises(BackendError, match="holds the graph grounder, expected video_encoder"):
        choose(swapped, "onnxruntime")


def test_answering_needs_no_torch(exported, features, tmp_path):
    """An edge device would have to install PyTorch for a bundle that has no use for it."""
    out = tmp_path / "out.jsonl"
    arguments = ["infer", str(features.folder), "--bundle", str(exported("tiny_glove")), "--query", "w001"]
    code = (
        "import sys\n"
        "from img_deploy.cli.main import main\n"
        f"try: main({[*arguments, '--out', str(out)]!r})\n"
        "except SystemExit as left: print(left.code, [name for name in ('torch', 'onnx') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "0 []\n", done.stderr
    assert "backend onnxruntime on cpu, fp32 (the fastest that works here" in done.stderr
    assert len(out.read_text().splitlines()) == 6
