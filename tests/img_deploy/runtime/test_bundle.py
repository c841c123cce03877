"""Bundles: what a damaged, tampered or newer one is refused for, and how one takes another's place."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from img_deploy import files
from img_deploy.errors import BundleError
from img_deploy.model.config import ModelConfig
from img_deploy.runtime.bundle import MANIFEST, Bundle, Manifest, replacing, write_manifest


def fill(folder, text="weights"):
    """Files and a manifest that lists them."""
    (folder / "onnx" / "fp32").mkdir(parents=True)
    (folder / "weights.safetensors").write_text(text)
    (folder / "onnx/fp32/grounder.onnx").write_text(text * 2)
    config = ModelConfig(chars=20).as_dict()
    graphs = {"fp32": {"grounder": "onnx/fp32/grounder.onnx"}}
    limits = {"clips": 128, "words": 128, "chars": 128}
    write_manifest(folder, Manifest(config, {}, limits, graphs, noise_seed=3))


@pytest.fixture
def folder(tmp_path):
    """A whole bundle."""
    path = tmp_path / "deploy"
    path.mkdir()
    fill(path)
    return path


@pytest.fixture
def edit(folder):
    """Function: change the manifest's content."""

    def change(**values):
        path = folder / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def test_a_whole_bundle_opens(folder):
    """Checks that refuse everything would pass every other test here."""
    bundle = Bundle.open(folder)
    bundle.check_all()
    assert bundle.graph("grounder") == folder / "onnx/fp32/grounder.onnx"
    assert bundle.manifest.noise_seed == 3


def test_a_changed_file_is_refused(folder):
    """Tampered weights would answer."""
    (folder / "weights.safetensors").write_text("Weights")
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"weights\.safetensors.*sha256.*export"):
        bundle.check_all()


def test_a_missing_file_is_named(folder):
    """A traceback would name a path of the runtime instead."""
    (folder / "onnx/fp32/grounder.onnx").unlink()
    with pytest.raises(BundleError, match=r"grounder\.onnx: missing"):
        Bundle.open(folder).graph("grounder")


@pytest.mark.parametrize("name", ["../weights", "/etc/passwd", "a/../../b", "./a", "..", "a\\..\\b", "C:/x", ""])
def test_paths_that_leave_the_bundle_are_refused(folder, edit, name):
    """A manifest from elsewhere could make the program read any file."""
    edit(files={name: "0" * 64})
    with pytest.raises(BundleError):
        Bundle.open(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_symbolic_links_are_refused(folder, tmp_path, what):
    """A link would lead out of the bundle as `..` does."""
    if what == "file":
        target = folder / "weights.safetensors"
        os.rename(target, tmp_path / "elsewhere")
        target.symlink_to(tmp_path / "elsewhere")
    else:
        os.rename(folder / "onnx", tmp_path / "onnx")
        (folder / "onnx").symlink_to(tmp_path / "onnx")
    with pytest.raises(BundleError, match="symbolic link"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": 99}, "schema 99.*update"),
        ({"schema": "1"}, "not a bundle manifest"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"config": {"dim": 3}}, "odd"),
        ({"config": []}, "not a bundle manifest"),
        ({"files": []}, "not a bundle manifest"),
        ({"files": {"weights.safetensors": "12"}}, r"files\.weights\.safetensors: .*12"),
        ({"files": {"weights.safetensors": 12}}, r"files\.weights\.safetensors: .*12"),
        ({"graphs": {"fp32": {"grounder": "elsewhere.onnx"}}}, "without its sha256"),
        ({"limits": {"clips": 1}}, "not a bundle manifest"),
        ({"limits": {"clips": "x", "words": 1, "chars": 1}}, r"limits\.clips: .*'x'"),
        ({"limits": {"clips": 8, "words": 10**9, "chars": 1}}, r"limits\.words: .*1000000000"),
        ({"limits": {"clips": 8, "words": True, "chars": 1}}, r"limits\.words: .*True"),
        ({"schema": 0}, "not a bundle manifest"),
        ({"schema": True}, "not a bundle manifest"),
        ({"features": []}, r"features: .*got \[\]"),
        ({"features": {"video": 3}}, r"features\.video: .*got 3"),
        ({"provenance": [1]}, r"provenance: .*got \[1\]"),
        ({"precision": [1]}, r"precision: .*got \[1\]"),
        ({"noise_seed": "x"}, r"noise_seed: .*'x'"),
        ({"engines": []}, r"engines: .*got \[\]"),
        ({"config": {"dim": 1 << 20}}, "dim is 1048576"),
        ({"files": {"a" * 5000: "0" * 64}}, "cannot be looked up"),
    ],
)
def test_a_wrong_manifest_is_refused(folder, edit, values, message):
    """It would fail later, far from its cause, or run a bundle that this program does not understand."""
    edit(**values)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema": 1}', b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(folder, content):
    """A truncated copy would show a traceback."""
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(folder)


def test_what_is_no_bundle_is_told(tmp_path):
    """The user would not know that `img-deploy export` makes one."""
    (tmp_path / "file").write_text("x")
    for path, found in ((tmp_path / "none", "nothing"), (tmp_path / "file", "a file"), (tmp_path, "no manifest")):
        with pytest.raises(BundleError, match=rf"{found}.*img-deploy export"):
            Bundle.open(path)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(folder):
    """A pipe by that name would stop the program for ever."""
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(folder)


def test_a_graph_that_is_not_there(folder):
    """A manifest that leaves a graph out would end in a KeyError when its turn comes."""
    with pytest.raises(BundleError, match="no fp32 graph query_encoder"):
        Bundle.open(folder).graph("query_encoder")


def test_a_precision_that_is_not_there(folder):
    """Another precision's file would be run in its place."""
    with pytest.raises(BundleError, match="no fp16 graphs, only fp32"):
        Bundle.open(folder).graph("grounder", "fp16")


def test_replacing_puts_the_new_in_the_place_of_the_old(folder):
    """Files of the old bundle would stay beside those of the new, or a temporary folder would be left."""
    with replacing(folder) as part:
        fill(part, "new")
        (part / "more").write_text("x")
        write_manifest(part, Bundle.open(part).manifest)
        assert (folder / "weights.safetensors").read_text() == "weights"
    Bundle.open(folder).check_all()
    assert (folder / "weights.safetensors").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["deploy"]


@pytest.mark.parametrize("swap", [True, False], ids=["one step", "no such call"])
def test_replacing_without_the_system_call(folder, monkeypatch, swap):
    """File systems that cannot swap folders (network shares) would lose the old bundle or keep it."""
    if not swap:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    with replacing(folder) as part:
        fill(part, "new")
    Bundle.open(folder).check_all()
    assert (folder / "weights.safetensors").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["deploy"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_export_leaves_the_old_bundle(folder, error):
    """A verification that fails would cost the user the bundle that worked."""

    def export():
        with replacing(folder) as part:
            fill(part, "new")
            raise error

    with pytest.raises(error):
        export()
    Bundle.open(folder).check_all()
    assert (folder / "weights.safetensors").read_text() == "weights"
    assert [path.name for path in folder.parent.iterdir()] == ["deploy"]


@pytest.mark.parametrize("kind", ["file", "photos", "link"])
def test_what_is_not_a_bundle_is_not_replaced(tmp_path, kind):
    """`--out ~` would delete a home."""
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("x")
    elif kind == "photos":
        target.mkdir()
        (target / "photo").write_text("x")
    else:
        target.symlink_to(tmp_path)
    with pytest.raises(BundleError, match="choose another --out"), replacing(target) as part:
        fill(part)
    assert target.exists()


def test_an_empty_folder_is_taken(tmp_path):
    """`mkdir deploy` before the export would make it fail."""
    (tmp_path / "deploy").mkdir()
    with replacing(tmp_path / "deploy") as part:
        fill(part)
    Bundle.open(tmp_path / "deploy").check_all()


def test_an_unwritable_place_is_named(tmp_path):
    """A full traceback for a file in the way."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="cannot write the bundle"), replacing(tmp_path / "file" / "deploy"):
        pass


WRITER = """
import sys
from pathlib import Path
from img_deploy.runtime.bundle import replacing, write_manifest, Bundle
folder = Path(sys.argv[1])
manifest = Bundle.open(folder).manifest
print("started", flush=True)
for turn in range(10**9):
    with replacing(folder) as part:
        for name in manifest.files:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_text(f"turn {turn} " * 2000)
        write_manifest(part, manifest)
"""


def test_a_killed_export_leaves_a_whole_bundle(folder):
    """A power button, an OOM killer or Ctrl-\\ in the middle would leave half a bundle, or none.

    The writer replaces the bundle over and over; it is killed at many moments, and read meanwhile.
    """
    for wait in (0.0, 0.003, 0.007, 0.013, 0.029, 0.05, 0.071, 0.11):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
        try:
            writer.stdout.readline()
            until = time.monotonic() + wait
            while time.monotonic() < until:
                assert (folder / MANIFEST).exists(), "for a moment there was no bundle"
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        Bundle.open(folder).check_all()
    # The last one's temporary folder may be left, under a name of its own.
    assert all(path.name == "deploy" or path.name.startswith(".deploy.") for path in Path(folder).parent.iterdir())
