"""``img-deploy import``, ``export`` and ``inspect``: exit codes, one line per mistake, and what they print."""

import json
import shutil

import pytest
import torch

from img_deploy.export.verify import BUDGETS, Budget
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.runtime.bundle import Bundle


@pytest.mark.usefixtures("quick_graphs")
def test_from_a_run_to_a_bundle(run_cli, golden, tmp_path):
    """The three commands would not fit each other."""
    run, best, out = golden / "tiny_glove", tmp_path / "best.pt", tmp_path / "deploy"
    done = run_cli("import", run, "--dataset", run / "dataset.pkl", "--out", best)
    assert (done.code, done.out) == (0, f"{best}: glove network from IMG_100.t7\n")
    assert torch.load(best, weights_only=True)["noise_seed"] == 0
    done = run_cli("export", "--ckpt", best, "--out", out)
    assert done.code == 0
    assert "exporting" in done.err or "copying" in done.err
    assert done.out.count("passed") == 8
    assert done.out.splitlines()[-1].startswith(f"{out}: verified bundle")
    Bundle.open(out).check_all()
    done = run_cli("inspect", out)
    assert done.code == 0
    for part in ("bundle", "glove", "noise_seed", "grounder.onnx", "start_logits", "same span", "IMG_100.t7"):
        assert part in done.out


def test_noise_seed_and_kinds(run_cli, golden, tmp_path):
    """Two imports with one seed would answer differently, or a kind that was stated would be forgotten."""
    run = golden / "tiny_vlm"
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert run_cli("import", run, "--out", tmp_path / name, "--noise-seed", seed).code == 0
    a, b, c = (Checkpoint.load(tmp_path / name) for name in "abc")
    noise = "fusion.event.slot_attention.noise"
    assert torch.equal(a.weights[noise], b.weights[noise])
    assert not torch.equal(a.weights[noise], c.weights[noise])
    assert (a.noise_seed, c.noise_seed) == (5, 6)
    wrong = run_cli("import", run, "--out", tmp_path / "d", "--video-features", "i3d")
    assert wrong.code == 2
    assert "got width 24, expected 1024" in wrong.err
    assert not (tmp_path / "d").exists()


def test_inspect_a_checkpoint(run_cli, best):
    """The user could not tell one checkpoint from another."""
    done = run_cli("inspect", best, "--format", "json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["kind"] == "checkpoint"
    assert found["network"]["parameters"] == 272850
    assert found["network"]["words"] == 28
    assert found["configuration"]["dim"] == 32
    assert {row["graph"] for row in found["graphs"]} == {
        "video_encoder",
        "query_encoder",
        "grounder",
        "visual_grounder",
    }


def test_inspect_a_bundle(run_cli, exported):
    """Sizes, hashes and verification would be missing, or be those of the table for people."""
    done = run_cli("inspect", exported("tiny_vlm"), "--format", "json")
    found = json.loads(done.out)
    assert found["verification"]["passed"] is True
    assert isinstance(found["verification"]["rows"][0]["largest"], float)
    files = {row["file"]: row for row in found["files"]}
    assert files["weights.safetensors"]["bytes"] == (exported("tiny_vlm") / "weights.safetensors").stat().st_size
    assert found["bundle"]["words"] is None


def damaged(source, folder, name, change):
    shutil.copytree(source, folder)
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return folder


def test_inspect_refuses_a_tampered_bundle(run_cli, exported, tmp_path):
    """It would show hashes that nobody compared."""
    last = damaged(exported("tiny_vlm"), tmp_path / "a", "weights.safetensors", lambda content: content[:-1] + b"\x00")
    done = run_cli("inspect", last)
    assert done.code == 2
    assert "weights.safetensors" in done.err
    assert "sha256" in done.err
    table = damaged(exported("tiny_vlm"), tmp_path / "b", "manifest.json", lambda c: c.replace(b'"rows"', b'"Rows"'))
    done = run_cli("inspect", table)
    assert done.code == 2
    assert "verification is damaged" in done.err


def test_inspect_moves_no_cursor(run_cli, best, tmp_path):
    """A checkpoint of unknown origin could write whatever it likes on the terminal."""
    content = torch.load(best, weights_only=True)
    torch.save(content | {"provenance": {"by\x1b[2J": "a\x1b[31m\nb"}}, tmp_path / "best.pt")
    done = run_cli("inspect", tmp_path / "best.pt")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "a [31m b" in done.out


def test_inspect_of_features_without_a_name(run_cli, exported, tmp_path):
    """A manifest that another program wrote would end in a traceback."""
    folder = damaged(exported("tiny_vlm"), tmp_path / "a", "manifest.json", lambda c: c.replace(b'"name"', b'"Name"'))
    done = run_cli("inspect", folder)
    assert done.code == 0
    assert "None, width 24" in done.out


@pytest.fixture
def wrong_files(tmp_path, golden):
    """Things that are neither checkpoint nor bundle."""
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes((golden / "tiny_vlm" / "IMG_100.t7").read_bytes()[:5000])
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["empty.pt", "text.pt", "other.pt", "list.pt", "cut.pt", "folder", "nothing.pt"])
@pytest.mark.parametrize("command", [("export", "--ckpt"), ("inspect",), ("import",)], ids=lambda parts: parts[0])
def test_a_wrong_file_is_one_clear_line(run_cli, wrong_files, command, name):
    """A traceback, or code 1, for a mistake of the user's."""
    out = ("--out", wrong_files / "out") if command[0] != "inspect" else ()
    done = run_cli(*command, wrong_files / name, *out)
    assert done.code == 2
    lines = done.err.strip().splitlines()
    assert len(lines) == 1
    assert name in lines[0]
    assert "expected" in lines[0] or "make one" in lines[0]
    assert not (wrong_files / "out").exists()


def test_a_reference_run_is_no_checkpoint(run_cli, golden, tmp_path):
    """The user would not be told that an import comes first."""
    done = run_cli("export", "--ckpt", golden / "tiny_vlm" / "IMG_100.t7", "--out", tmp_path / "out")
    assert done.code == 2
    assert "img-deploy import" in done.err


def test_options_that_are_wrong(run_cli, best, tmp_path):
    """They would be found out after minutes of export, or not at all."""
    for options, part in (
        (("--precision", "fp8"), "precision: got 'fp8'"),
        (("--targets", "onnx,coreml"), "target: got 'coreml'"),
        (("--targets", "onnx,aoti"), "target aoti: packages compiled by AOTInductor were dropped"),
        (("--samples", tmp_path / "none"), "none"),
        (("--out", best), "no folder"),
        (("--seed", "-1"), "--seed"),
    ):
        done = run_cli("export", "--ckpt", best, "--out", tmp_path / "deploy", *options)
        assert done.code == 2, done.err
        assert part in done.err
        assert not (tmp_path / "deploy").exists()


@pytest.mark.usefixtures("quick_graphs")
def test_a_failed_verification_exits_1_and_shows_its_table(run_cli, best, tmp_path, monkeypatch):
    """A script would take the export for done, or a user would not see what is off."""
    monkeypatch.setitem(BUDGETS, "fp32", Budget(largest=1e-9, agreement=1.0, iou=0.0))
    done = run_cli("export", "--ckpt", best, "--out", tmp_path / "deploy")
    assert done.code == 1
    assert "FAILED" in done.out
    assert "not written" in done.err
    assert not (tmp_path / "deploy").exists()
