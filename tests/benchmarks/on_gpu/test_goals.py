"""Goals and page of the GPU benchmark, from figures made up here."""

import pytest

from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.on_gpu.goals import failures, goals
from img_deploy.benchmarks.on_gpu.pages import page
from img_deploy.benchmarks.on_gpu.record import Results

PASSED = {"passed": True, "checks": 4, "difference": 1e-6, "share": 0.5}
SINGLE, CROWD, HALF = {"batch": 1, "clips": 128}, {"batch": 64, "clips": 64}, {"precision": "fp16"}
WORST = {"largest": 1e-2, "mean": 1e-3, "same_span": 1.0}
ACCURATE = {"eager": WORST, "ours": WORST, "served": WORST, "allowed": 4e-2, "passed": True}


def ms(value):
    return {"p50": value, "p90": 2 * value}


def timed(latency, streaming=None):
    return {"latency": ms(latency), "streaming": ms(streaming or latency)}


@pytest.fixture
def part(tmp_path):
    """A part of a run on a GPU with round figures; ``part.add`` adds to it."""
    results = Results(tmp_path / "gpu_a.jsonl")
    where = environment() | {"threads": None}
    where["machine"]["gpus"] = [{"name": "NVIDIA H200", "driver": "580.1", "compute_capability": "9.0"}]
    results.begin({"part": "A", "command": "x", "device": "cuda", "where": where})
    add = results.add
    add("checks", {"op": "conv_block", **HALF}, "done", PASSED)
    add("accuracy", HALF, "done", ACCURATE)
    add("network", {"version": "ours", **HALF, **SINGLE}, "done", timed(0.4, 0.3))
    add("network", {"version": "eager", "precision": "fp32", **SINGLE}, "done", timed(40.0))
    add("network", {"version": "eager", **HALF, **SINGLE}, "done", timed(20.0))
    add("compiled", {"version": "torch.compile", **HALF, **SINGLE}, "done", timed(2.0))
    add("sizes", {"version": "ours", **HALF, "batch": 8, "clips": 128}, "skipped", why="out of time")
    for size, whole in ((SINGLE, 0.6), (CROWD, 3.0)):
        times = {"whole": ms(whole), "encoded": ms(0.9), "encoded_streaming": ms(0.5), "kept": ms(0.7)}
        add("served", {**HALF, **size}, "done", times)
    add("gru", {**HALF, **SINGLE}, "done", {"calls": [{"call": "g", "steps": 128, "ours": ms(0.064), "cudnn": None}]})
    kernels = [{"name": "gru_one_row", "launches": 4.0, "us": 200.0}]
    add("profile", {**HALF, **SINGLE}, "done", {"kernels": kernels, "launches": 60, "busy_us": 300.0})
    return results


def test_goals_are_told_against_the_fastest_baseline(part):
    """A goal would be met over a baseline that another setting makes faster."""
    found = [(goal.got, goal.verdict) for goal in goals(part.entries())]
    assert found == [
        (20.0 / 0.4, "missed"),
        (2.0 / 0.4, "met"),
        (0.6, "missed"),
        (128_000.0, "met"),
        (None, "not measured"),
    ]


@pytest.mark.parametrize(
    ("step", "case", "outcome", "record", "verdict"),
    [
        ("checks", {"op": "bigru", **HALF}, "done", {**PASSED, "passed": False, "share": None}, "wrong answers"),
        ("accuracy", HALF, "done", {**ACCURATE, "passed": False}, "wrong answers"),
        ("checks", {"op": "bigru", **HALF}, "failed", None, "not checked"),
        ("accuracy", HALF, "skipped", None, "not checked"),
        ("checks", {"op": "bigru", "precision": "bf16"}, "done", {**PASSED, "passed": False}, "met"),
    ],
)
def test_no_goal_is_met_by_wrong_answers(part, step, case, outcome, record, verdict):
    """A kernel that computes something else, or was not checked, would reach a goal of its precision."""
    part.add(step, case, outcome, record, why=None if record else "why")
    assert goals(part.entries())[1].verdict == verdict


def test_what_failed_is_told_and_a_baseline_is_no_fault_of_ours(part):
    """The run would end well with a wrong kernel, or badly because a compiler of others gave up."""
    assert failures(part.entries()) == []
    part.add("checks", {"op": "bigru", **HALF}, "done", {**PASSED, "passed": False})
    part.add("served", {**HALF, **SINGLE}, "failed", why="OutOfMemory")
    part.add("compiled", {"version": "torch.compile", **HALF, **SINGLE}, "failed", why="inductor")
    part.add("network", {"version": "eager", **HALF, **SINGLE}, "failed", why="cuDNN")
    wrong = failures(part.entries())
    assert sorted(wrong) == ["checks bigru fp16: is not what its reference computes", "served fp16 1 128: OutOfMemory"]
    text = page([part])
    assert "## Failed" in text
    assert "inductor" in text


def test_the_page_tells_every_figure(part):
    """A figure would be left out, or stand beside another case's."""
    text = page([part, Results(part.path.with_name("none"))])
    for line in (
        "- GPU: NVIDIA H200, driver 580.1, compute capability 9.0.",
        "| one pair of 128 clips, fp16: eager's time over ours | at least 60 times | 50 | missed |",
        "| 1 | 128 | ours | fp16 | 0.4 | 3,333 |",
        "| 1 | 128 | torch.compile | fp16 | 2 | 500 |",
        "| 64 | 64 | 3 | 0.9 | 0.7 | 128,000 |",
        "| g | fp16 | 0.5 | - |",
        "| 1 | 128 | `gru_one_row` | 4.0 | 200 |",
        "| sizes ours fp16 8 128 | out of time |",
        "| conv_block | fp16 | 1.0e-06 | 0.50 | 4 | passed |",
    ):
        assert line in text
    assert "did not end" in text
    assert "Not yet run" not in text
    part.end(1.0)
    assert "did not end" not in page([part])
