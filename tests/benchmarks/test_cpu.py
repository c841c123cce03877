"""The benchmark of a full-size network: what is built, what is checked before it is timed, and its page."""

import json

import numpy as np
import pytest
import torch

from img_deploy.benchmarks import cpu, published
from img_deploy.benchmarks.contenders import EAGER
from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.latency import CaseResult
from img_deploy.benchmarks.page import write_results
from img_deploy.benchmarks.profile import Profile
from img_deploy.benchmarks.starts import StartResult
from img_deploy.benchmarks.timing import Ratio, summarize
from img_deploy.errors import VerificationError
from img_deploy.text.tokens import tokenize


@pytest.fixture(scope="module")
def checkpoint():
    return cpu.full_size_checkpoint()


def test_the_network_has_the_published_size(checkpoint):
    """The figures would be those of a smaller network."""
    config = checkpoint.config
    assert (config.dim, config.video_dim, config.audio_dim, config.text_dim, config.max_clips) == (
        128,
        1024,
        2048,
        300,
        128,
    )
    count = sum(parameter.numel() for parameter in checkpoint.network().parameters())
    assert 3.6e6 < count < 4.0e6


def test_the_same_seed_gives_the_same_network_and_leaves_the_caller_his_chance(checkpoint):
    """A run could not be made again; or timing would change what is drawn after it."""
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    again = cpu.full_size_checkpoint()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(again.weights[name], value) for name, value in checkpoint.weights.items())


def test_its_words_are_words_to_the_tokenizer(checkpoint):
    """Drawn queries would fall back to one unknown word."""
    words = checkpoint.vocabulary.words[::50]
    assert all(tokenize(word) == [word] for word in words)


def test_a_baseline_that_computes_something_else_is_refused(checkpoint, monkeypatch):
    """A speed-up would be told over another network."""
    network = checkpoint.network()
    assert cpu.check_published(network) <= cpu.TOLERANCE
    packed = published.packed
    monkeypatch.setattr(published, "packed", lambda *arguments: packed(*arguments) + 1e-2)
    with pytest.raises(VerificationError, match="off by"):
        cpu.check_published(network)


def test_a_baseline_that_gives_nan_is_refused(checkpoint, monkeypatch):
    """NaN compares as false with everything."""
    packed = published.packed
    monkeypatch.setattr(published, "packed", lambda *arguments: packed(*arguments) * np.nan)
    with pytest.raises(VerificationError, match="off by nan"):
        cpu.check_published(checkpoint.network())


def made_up_profile():
    times, faster = summarize([100.0, 110.0, 120.0]), summarize([25.0, 27.5, 30.0])
    ratio = Ratio(3, 4.0, 3.9, 4.1)
    stages = dict.fromkeys(("read", "encode_video", "encode_query", "ground", "decode"), 1.0)
    cases = tuple(
        CaseResult(name, "fp32", 1, clips, sample, sample, 1000 / sample.p50, stages, own, own, 1e-6, 1.0)
        for clips in (128, 32)
        for name, sample, own in ((f"{EAGER}:cpu", times, Ratio(3, 1.0, 1.0, 1.0)), ("onnxruntime:cpu", faster, ratio))
    )
    cold = {"interpreter": 1.0, "imports": 2.0, "load": 3.0, "first_answer": 4.0, "total": 10.0}
    starts = (StartResult("onnxruntime:cpu", 3, cold, {"load": 1.0, "first_answer": 1.5, "total": 2.5}),)
    return Profile("deploy", environment(2), "drawn (seed 0)", 10, cases, starts, {})


def made_up_result(profile):
    row = {"backend": "onnxruntime", "precision": "fp32", "graph": "grounder", "largest": 1e-6}
    checks = {"published_difference": 2e-6, "export": {"rows": [{**row, "agreement": 1.0, "samples": 16}]}}
    return {**profile.as_dict(), "command": "x", "contenders": cpu.CONTENDERS, "checks": checks}


def test_the_page_holds_what_judging_the_figures_takes(tmp_path):
    """A table without machine, versions, spread or the check of the answers is an advertisement."""
    profile = made_up_profile()
    write_results(tmp_path / "results", "cpu", made_up_result(profile), cpu.page)
    page = (tmp_path / "results/cpu.md").read_text()
    for wanted in (
        profile.where["machine"]["cpu"],
        f"torch {profile.where['versions']['torch']}",
        "threads: 2",
        "off by at most 2.0e-06",
        "same best span in 100.0% of 16 samples",
        "| 1 | onnxruntime:cpu | 27.5 | 29.5 | 25.0 | 36.4 | 4.00 (3.90-4.10) |",
    ):
        assert wanted in page
    assert page.index("## 32 clips") < page.index("## 128 clips")
    widths = {line.count("|") for line in page.split("## 32 clips")[1].split("##")[0].splitlines() if "|" in line}
    assert len(widths) == 1
    report = json.loads((tmp_path / "results/cpu.json").read_text())
    assert report["cases"][1]["ratio"] == {"count": 3, "p50": 4.0, "p25": 3.9, "p75": 4.1}
    assert report["checks"]["published_difference"] == 2e-6


def test_results_that_cannot_be_written_are_one_line(tmp_path, capsys, monkeypatch):
    """A quarter of an hour of measuring would end in a traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cpu, "run", lambda *_: made_up_result(made_up_profile()))
    assert cpu.main(["--out", str(tmp_path / "file")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "give another --out" in captured.err
    assert cpu.main(["--seconds", "0"]) == 2
