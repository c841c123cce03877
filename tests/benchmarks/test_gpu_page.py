"""The GPU benchmark's plan and page, from figures made up here."""

import pytest

from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.on_gpu.children import Budget
from img_deploy.benchmarks.on_gpu.goals import goals, missed_shapes
from img_deploy.benchmarks.on_gpu.page import page
from img_deploy.benchmarks.on_gpu.plan import STEPS, Stage, carry_out, failures, stages
from img_deploy.benchmarks.on_gpu.roofline import position
from img_deploy.benchmarks.on_gpu.store import Store, entries

PASSED = {"passed": True, "checks": 4, "difference": 1e-6, "share": 0.5, "absolute": 1e-5, "relative": 0.0}
KERNEL = {"op": "conv_block", "form": "2 layers", "batch": 64, "clips": 128, "dtype": "fp16"}
SINGLE = {"batch": 1, "clips": 128}
HALF = {**SINGLE, "dtype": "fp16"}


def ms(value):
    return {"count": 9, "p50": value, "p90": 2 * value, "p99": value, "low": value, "high": value, "mean": value}


def done(record, **case):
    return {**case, "outcome": "done", "record": record}


@pytest.fixture
def document():
    """A run on a GPU with round figures."""
    loops = {"one_row": {"share": 0.1, "ms": ms(0.128), "why": None}}
    fast = {**loops, "cuda c++": {"share": 0.1, "ms": ms(0.064), "why": None}}
    whole = {"latency": ms(0.4), "throughput": ms(0.3), "end_to_end": ms(0.6)}
    eager = {"latency": ms(20.0), "throughput": ms(20.0)}
    where = environment() | {"cuda": "13.0"}
    where["machine"]["gpus"] = [{"name": "NVIDIA H200", "driver": "580.1", "compute_capability": "9.0"}]
    steps = {
        "ceilings": [done({"per_second": 4e12}, name="copy"), done({"per_second": 8e14}, name="fp16")],
        "checks": [done(PASSED, op="conv_block", dtype="fp16")],
        "accuracy": [
            done(
                {
                    "ours": {"largest": 1e-2, "mean": 1e-3, "same_span": 1.0},
                    "served": {"largest": 1e-2, "mean": 1e-3, "same_span": 1.0},
                    "eager": {"largest": 2e-2, "mean": 1e-3, "same_span": 1.0},
                    "allowed": 4e-2,
                    "passed": True,
                },
                precision="fp16",
            )
        ],
        "kernels": [
            done(
                {
                    "ours": ms(0.01),
                    "eager": ms(0.05),
                    "eager_launched": ms(0.2),
                    "bytes": 8 * 10**6,
                    "flops": 10**9,
                    "notes": [],
                },
                **KERNEL,
            )
        ],
        "compiled_kernels": [done({"compiled": ms(0.03)}, **KERNEL)],
        "recurrence": [
            done({"loops": loops, "layer": loops["one_row"], "cudnn": ms(0.3)}, form="3 stacks", **HALF),
            done({"loops": fast, "layer": loops["one_row"], "cudnn": None}, form="1 wide stack", **HALF),
        ],
        "network": [
            done(whole, version="ours", precision="fp16", **SINGLE),
            done(eager, version="eager", precision="fp32", **SINGLE),
            done({**eager, "latency": ms(10.0)}, version="eager", precision="fp16", **SINGLE),
        ],
        "compiled_network": [
            done({"latency": ms(2.0), "throughput": ms(2.0)}, version="one graph", precision="fp16", **SINGLE),
            {"version": "own graphs", "precision": "fp16", **SINGLE, "outcome": "skipped", "why": "out of time"},
        ],
        "profile": [
            done(
                {"kernels": [{"name": "gru_one_row", "launches": 4.0, "us": 200.0}], "launches": 60, "busy_us": 300.0},
                version="ours",
                precision="fp16",
                **SINGLE,
            )
        ],
    }
    return {"kind": "cuda", "command": "x", "budget": 400, "complete": True, "where": where, "steps": steps}


def test_goals_are_told_against_the_fastest_baseline(document):
    """A goal would be met over a baseline that another setting makes faster."""
    found = [(goal.got, goal.met) for goal in goals(document)]
    assert found[0] == (10.0 / 0.4, False)
    assert found[1] == (2.0 / 0.4, True)
    assert found[2] == (0.6, False)
    assert found[3] == (1.0, False)
    assert found[4] == (None, None)
    assert missed_shapes(document) == [(1, 128)]


def test_a_kernels_place_below_the_ceilings(document):
    """A kernel would be said to be near a ceiling it is far from, or bound by the wrong one."""
    entry = next(entries(document, "kernels"))
    found = position(entry["record"], "fp16", document)
    assert found.bytes_per_second == pytest.approx(8e11)
    assert found.of_copy == pytest.approx(0.2)
    assert found.of_product == pytest.approx(0.125)
    assert (found.of_floor, found.bound) == (pytest.approx(0.2), "memory")
    entry["record"]["ours"] = ms(0.1)
    assert position(entry["record"], "fp16", document).bound == "latency"
    assert position(entry["record"], "bf16", document) is None
    entry["record"]["ours"] = None
    assert position(entry["record"], "fp16", document) is None


def test_the_page_tells_every_figure(document):
    """A figure would be left out, or stand beside another case's."""
    text = page(document)
    for part in (
        "GPU: NVIDIA H200, driver 580.1, compute capability 9.0.",
        "| conv_block | 2 layers | 64 | 128 | fp16 | 10 | 50 | 30 | 200 | 5 | 3 | 20 |",
        "| conv_block | 2 layers | 64 | fp16 | 7,812 | 1,000 | 800 | 20% | 100 | 12% | 20% | memory |",
        "| 3 stacks | 1 | 128 | fp16 | 1 | - | - | 1 | 2.34 | - |",
        "cuda c++ wins: 1 wide stack at 1 in fp16.",
        "| 1 | 128 | ours | fp16 | 0.4 | 0.8 | 3,333 | 0.6 | 25 | 5 | 66.7 |",
        "| 1 | 128 | torch.compile, one graph | fp16 | 2 | 4 | 500 |  |  |  |  |",
        "| `gru_one_row` | 4.0 | 200 |",
        "| compiled_network | own graphs fp16 1 128 | out of time |",
    ):
        assert part in text
    assert "not yet run" not in text
    assert "Not finished" not in text
    assert "Not finished" in page({**document, "complete": False})


def test_what_failed_is_not_timed(document, tmp_path):
    """A speed-up would be told for a kernel that computes something else."""
    wrong = {**PASSED, "passed": False, "share": None, "difference": None}
    records = {"checks": {"conv_block": PASSED, "bigru": wrong}}
    ran = []

    def run(step, _kind, cases, _seconds, report):
        for case in cases:
            ran.append((step, case["op"], case["dtype"]))
            if step == "checks" and case["dtype"] == "bf16":
                report(case, "failed", "its process ended with signal 11")
            else:
                report(case, "done", records.get(step, {}).get(case["op"], document["steps"]["kernels"][0]["record"]))

    chosen = [stage for stage in stages("cuda", ("conv_block", "bigru")) if stage.step in ("checks", "kernels")]
    store = Store(tmp_path, {name: document[name] for name in ("kind", "command", "budget", "where")}, page)
    carry_out("cuda", chosen, Budget(400), store, lambda _text: None, run)
    timed = {(op, dtype) for step, op, dtype in ran if step == "kernels"}
    assert timed == {("conv_block", "fp16"), ("conv_block", "fp32")}
    left = entries(store.document, "kernels", outcome="skipped")
    refused = {(entry["op"], entry["dtype"], entry["why"]) for entry in left}
    assert refused == {
        (op, dtype, "failed its check: no speed-up is told")
        for op, dtype in (("bigru", "fp16"), ("bigru", "fp32"), ("bigru", "bf16"), ("conv_block", "bf16"))
    }
    lines = failures(store.document)
    assert len(lines) == 4
    assert "checks: bigru fp16: is not what its reference computes" in lines
    assert "## Failed" in (tmp_path / "gpu.md").read_text()
    assert "not a number" in (tmp_path / "gpu.md").read_text()


def test_what_was_not_checked_is_not_timed(document, tmp_path):
    """Where time ran out before the checks, kernels would be timed unchecked."""
    store = Store(tmp_path, {name: document[name] for name in ("kind", "command", "budget", "where")}, page)
    carry_out("cuda", stages("cuda"), Budget(0), store, lambda _text: None)
    outcomes = {entry["outcome"] for found in store.document["steps"].values() for entry in found}
    assert outcomes == {"skipped"}
    assert {entry["why"] for entry in entries(store.document, "kernels")} == {"was not checked"}
    assert not any(entry["outcome"] == "done" for entry in entries(store.document, "network"))
    assert failures(store.document) == []


def test_a_loop_that_fails_its_check_fails_the_run(document):
    """The CUDA loop would compute something else, and the run would end well."""
    loop = document["steps"]["recurrence"][1]["record"]["loops"]["cuda c++"]
    loop |= {"ms": None, "why": "failed its check: 7 times its tolerance"}
    assert failures(document) == ["recurrence: 1 wide stack 1 128 fp16: cuda c++: " + loop["why"]]
    loop["why"] = "nvcc: not on PATH"
    assert failures(document) == []


def test_goals_come_before_the_rest():
    """Where time runs out, what the goals speak of would be missing."""
    steps = [stage.step for stage in stages("cuda")]
    assert set(steps) | {"profile"} == set(STEPS)
    first = next(stage for stage in stages("cuda") if stage.step == "network")
    assert {(case["batch"], case["clips"]) for case in first.cases} == {(1, 128), (64, 64)}
    assert steps.index("network") < steps.index("kernels")
    every = {
        (case["batch"], case["clips"]) for stage in stages("cuda") if stage.step == "network" for case in stage.cases
    }
    assert every == {(batch, clips) for batch in (1, 8, 64, 256) for clips in (32, 64, 128)}


def test_checks_run_apart_by_op():
    """Checks, most of which is compiling, would take the time of the measurements."""
    groups = []
    stage = Stage("checks", ({"op": "a"}, {"op": "b"}, {"op": "a"}), 9, apart=True)
    store = type("S", (), {"document": {"steps": {}}, "add": lambda *_: None})()
    carry_out("cuda", [stage], Budget(99), store, lambda _text: None, lambda *given: groups.append(given[2]))
    assert sorted(groups, key=len) == [[{"op": "b"}], [{"op": "a"}, {"op": "a"}]]


def test_a_missed_goal_is_profiled(document, tmp_path):
    """A goal would be missed without a word of what holds it."""
    ran = []

    def run(step, _kind, cases, _seconds, report):
        ran.append((step, [(case["batch"], case["clips"]) for case in cases if "batch" in case]))
        for case in cases:
            wanted = {**case, "outcome": "done"}
            known = next((one for one in document["steps"].get(step, ()) if {**wanted, **one} == one), None)
            report(case, *(("skipped", "out of time") if known is None else ("done", known["record"])))

    head = {name: document[name] for name in ("kind", "command", "budget", "where")}
    store = Store(tmp_path, head, page)
    chosen = [stage for stage in stages("cuda") if stage.step in ("accuracy", "network", "recurrence")]
    carry_out("cuda", chosen, Budget(400), store, lambda _text: None, run)
    assert ran[-1] == ("profile", [(1, 128)])
    assert "## What holds 1 pairs of 128 clips, fp16" in (tmp_path / "gpu.md").read_text()


def test_a_baseline_that_fails_does_not_fail_the_run(document):
    """The run would end as if a kernel were wrong, because a compiler of others gave up."""
    broken = {"outcome": "failed", "why": "RuntimeError: no", "precision": "fp32", "batch": 8, "clips": 32}
    document["steps"]["network"].append({"version": "eager", **broken})
    document["steps"]["compiled_network"].append({"version": "one graph", **broken})
    assert failures(document) == []
    text = page(document)
    assert "## Baselines that failed" in text
    assert "network: eager fp32 8 32: RuntimeError: no" in text
    document["steps"]["network"].append({"version": "ours", **broken})
    assert failures(document) == ["network: ours fp32 8 32: RuntimeError: no"]
