"""`img-deploy profile` from the command line."""

import json
import struct
import subprocess
import sys

import pytest

from img_deploy.benchmarks import profile as library
from img_deploy.cli.main import main

SUMMARY = {"count", "p50", "p90", "p99", "low", "high", "mean"}


@pytest.fixture
def profile(capsys, bundle_folder):
    """Runs the command on the small bundle; gives exit code, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["profile", "--bundle", str(bundle_folder), *map(str, arguments)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_quick_writes_tables_json_and_a_picture(profile, tmp_path):
    """The command as its users first run it would fail, or leave out a table."""
    code, out, err = profile("--quick", "--repeats", 2, "--json", tmp_path / "p.json", "--plot", tmp_path / "p.png")
    assert code == 0
    for heading in ("to the moment", "a further query", "stages", "from nothing to the first answer"):
        assert heading in out
    assert "onnxruntime:cpu was left out: the bundle has no fp32 ONNX graphs" in err
    report = json.loads((tmp_path / "p.json").read_text())
    assert report["schema"] == library.SCHEMA
    assert {"machine", "versions", "commit", "threads", "time", "inputs", "words", "out", "notes"} <= report.keys()
    assert {(case["batch"], case["clips"]) for case in report["cases"]} == {(1, 16), (4, 16), (1, 24), (4, 24)}
    for case in report["cases"]:
        assert case["latency"].keys() == SUMMARY == case["asked"].keys()
        assert case["latency"]["count"] == 2
        assert case["stages"].keys() == {"read", "encode_video", "encode_query", "ground", "decode"}
        assert case["ratio"]["p50"] == 1.0
    (start,) = report["starts"]
    assert start["cold"].keys() == {"interpreter", "imports", "load", "first_answer", "total"}
    assert start["cold"]["total"] > start["warm"]["total"] > 0
    picture = (tmp_path / "p.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1500, 690)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.png"]


def test_json_on_standard_output_is_nothing_but_json(profile):
    """A program that reads it would trip over a table."""
    code, out, _ = profile("--batch-size", "2,1", "--clips", 3, "--repeats", 1, "--starts", 0, "--json", "-")
    assert code == 0
    report = json.loads(out)
    assert [(case["batch"], case["clips"]) for case in report["cases"]] == [(1, 3), (2, 3)]
    assert report["starts"] == []


def test_features_of_a_folder_are_taken(profile, feature_folder):
    """The times would be those of drawn numbers."""
    arguments = ("--features", feature_folder, "--batch-size", 1, "--repeats", 1, "--starts", 0, "--json", "-")
    code, out, _ = profile(*arguments)
    assert code == 0
    report = json.loads(out)
    assert "2 videos with sound" in report["inputs"]
    assert [case["clips"] for case in report["cases"]] == [20]  # default lengths end at the longest video


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "9" * 5000), "--batch-size: got '999"),
        (("--batch-size", "1,x"), "--batch-size: got 'x', expected whole numbers"),
        (("--batch-size", "0"), "--batch-size: got '0'"),
        (("--clips", "1,,2"), "--clips: got ''"),
        (("--clips", "25"), "25 clips: expected 1 to 24"),
        (("--words", "41"), "41 words: expected 1 to 40"),
        (("--words", "0"), "--words"),
        (("--seconds", "0"), "seconds: got 0.0, expected more than 0"),
        (("--repeats", "0"), "--repeats"),
        (("--threads", "0"), "--threads"),
        (("--threads", "1000000"), "--threads"),
        (("--batch-size", "1,100000000"), "batch size 100000000: inputs of 24 clips take"),
        (("--backend", "cudnn"), "backend: got 'cudnn', expected one of auto"),
        (("--json", "nowhere/p.json"), "nowhere/p.json: cannot be written"),
        (("--plot", "p.svg"), "--plot: got 'p.svg', expected a name that ends in .png"),
        (("--plot", "."), ".: got a folder, expected the name of a file"),
        (("--features", "nowhere"), "nowhere"),
        (("--bundle", "nowhere"), "nowhere: got nothing, expected a bundle folder"),
        (("--features-folder", "x"), "--features-folder"),
    ],
)
def test_wrong_options_are_one_line(profile, tmp_path, monkeypatch, arguments, message):
    """A typo would end in a traceback, or after minutes of measuring."""
    monkeypatch.chdir(tmp_path)
    code, out, err = profile(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err


def test_a_backend_that_does_not_work_here_is_one_line(profile):
    """The other backends' figures would be read as its own."""
    code, out, err = profile("--backend", "onnxruntime:cpu")
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1


def test_a_busy_machine_is_noted():
    """Figures of a machine that did other work would be kept as its own."""
    where = {"machine": {"cpus": 2, "cpu": "x", "gpus": []}, "versions": {}, "threads": None}
    busy = library.Profile("deploy", where, "drawn", 10, (), (), {}, neighbours=1.2)
    assert "other programs kept 1.2 of 2 cores busy" in busy.notes()[0]
    for cores in (0.1, None):
        assert library.Profile("deploy", where, "drawn", 10, (), (), {}, neighbours=cores).notes() == []


def test_help_and_wrong_options_do_not_wait_for_frameworks():
    """`img-deploy profile --help` would take seconds."""
    absent = ("torch", "onnx", "onnxruntime", "matplotlib", "scipy")
    code = f"import sys, img_deploy.benchmarks.profile; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
