"""Steps in child processes: every case is told of once, whatever becomes of the child."""

import io
import json
import subprocess
import sys
import time

import pytest

from img_deploy.benchmarks.on_gpu import worker
from img_deploy.benchmarks.on_gpu.children import OUT_OF_TIME, WORKER, Budget, run_step
from img_deploy.benchmarks.on_gpu.store import Store, record_of
from img_deploy.benchmarks.on_gpu.worker import Request, run_request
from img_deploy.errors import InputError

CHILD = """
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
if request["step"] == "broken":
    sys.exit("ModuleNotFoundError: no triton")
for index, case in enumerate(request["cases"]):
    print(json.dumps({"begin": index}), flush=True)
    if case["do"] == "crash":
        print("illegal memory access", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if case["do"] == "hang":
        time.sleep(60)
    if case["do"] == "fail":
        print(json.dumps({"failed": index, "why": "ValueError: no"}), flush=True)
    else:
        print(json.dumps({"done": index, "record": {"pid": os.getpid(), "cuda": os.environ.get("TRITON_INTERPRET")}}),
              flush=True)
"""


@pytest.fixture
def outcome_of():
    """Function: (case, outcome, record) of each case, in the order they were told."""

    def run(*do, step="any", seconds=30.0, kind="cuda"):
        told = []
        cases = [{"number": number, "do": one} for number, one in enumerate(do)]
        run_step(step, kind, cases, seconds, lambda *one: told.append(one), (sys.executable, "-c", CHILD))
        assert sorted(case["number"] for case, _, _ in told) == list(range(len(do)))
        return [(case["do"], outcome, record) for case, outcome, record in told]

    return run


def test_a_crash_costs_its_own_case(outcome_of):
    """One kernel's illegal access would end the run, or every kernel after it would fail for no reason of its own."""
    told = outcome_of("ok", "fail", "crash", "ok")
    assert [(do, outcome) for do, outcome, _ in told] == [
        ("ok", "done"),
        ("fail", "failed"),
        ("crash", "failed"),
        ("ok", "done"),
    ]
    assert told[2][2] == "its process ended with signal 11: illegal memory access"
    assert told[0][2]["pid"] != told[3][2]["pid"]


def test_the_deadline_holds(outcome_of):
    """A compilation that does not end would take the whole lease; what was measured before it would be lost."""
    begin = time.monotonic()
    told = outcome_of("ok", "hang", "ok", seconds=3.0)
    assert time.monotonic() - begin < 10
    assert told[0][:2] == ("ok", "done")
    assert told[1:] == [("hang", "skipped", OUT_OF_TIME), ("ok", "skipped", OUT_OF_TIME)]


def test_a_child_ends_with_its_parent():
    """A run that is killed would leave a process on the GPU, which spoils whatever is measured next."""
    child = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    cases = [{"name": "fp32"}] * 10000
    child.stdin.write(json.dumps({"step": "ceilings", "kind": "cpu", "cases": cases, "seconds": 60.0}) + "\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline()) == {"begin": 0}
    child.stdin.close()
    assert child.wait(20) == 1
    child.stdout.close()


def test_no_time_left(outcome_of):
    """Children would be started after the end."""
    assert outcome_of("ok", "ok", seconds=0.5) == [("ok", "skipped", OUT_OF_TIME)] * 2


def test_a_child_that_cannot_begin_is_not_tried_again(outcome_of):
    """A machine without Triton would start children for ever."""
    told = outcome_of("ok", "ok", step="broken")
    assert [outcome for _, outcome, _ in told] == ["failed", "failed"]
    assert "no triton" in told[0][2]


def test_kernels_are_interpreted_on_a_cpu_only(outcome_of, monkeypatch):
    """A GPU's figures would be those of the interpreter, because somebody had set its variable."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert outcome_of("ok")[0][2]["cuda"] is None
    monkeypatch.delenv("TRITON_INTERPRET")
    assert outcome_of("ok", kind="cpu")[0][2]["cuda"] == "1"


def lines_of(request, step, clock=time.monotonic, monkeypatch=None):
    monkeypatch.setattr(worker, "_prepared", lambda _request: step)
    out = io.StringIO()
    try:
        run_request(request, out, clock)
    finally:
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return lines


def test_the_worker_tells_what_it_does(monkeypatch):
    """The parent would take an error for a crash, or fail to read what was measured."""

    def step(case):
        if case["n"] == 1:
            raise ValueError("two\nlines")
        return {"value": [float("nan"), 2.0], "inf": float("inf")}

    lines = lines_of(Request("any", "cpu", [{"n": 0}, {"n": 1}], 9.0), step, monkeypatch=monkeypatch)
    assert lines == [
        {"begin": 0},
        {"done": 0, "record": {"value": [None, 2.0], "inf": None}},
        {"begin": 1},
        {"failed": 1, "why": "ValueError: two lines"},
    ]


def test_the_worker_begins_nothing_after_its_time(monkeypatch):
    """A step would take the time of those after it."""
    moments = iter(range(100))
    lines = lines_of(
        Request("any", "cpu", [{}] * 9, 2.5), lambda _case: None, lambda: float(next(moments)), monkeypatch
    )
    assert [line["done"] for line in lines if "done" in line] == [0, 1]


def test_the_worker_ends_where_the_gpu_is_broken(monkeypatch):
    """What an error leaves behind (a broken context, half a capture) would spoil the cases after it."""

    def step(_case):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="CUDA error"):
        lines_of(Request("any", "cuda", [{}, {}], 9.0), step, monkeypatch=monkeypatch)


def test_budget():
    """The run would end too late, or a step get more than what is left."""
    now = [5.0]
    budget = Budget(100, lambda: now[0])
    assert budget.left(30) == 30
    now[0] = 85.0
    assert (budget.spent(), budget.left(30)) == (80.0, 20.0)
    now[0] = 200.0
    assert budget.left() == 0


def test_results_are_there_after_every_case(tmp_path, monkeypatch):
    """A run that is cut off would leave nothing, or half a file."""
    store = Store(tmp_path, {"kind": "cuda"}, lambda document: f"{len(document['steps'])} steps\n")
    store.add("checks", {"op": "bigru"}, "done", {"share": 0.5})
    written = (tmp_path / "gpu.json").read_text()
    assert record_of(json.loads(written), "checks", op="bigru") == {"share": 0.5}
    assert record_of(json.loads(written), "checks", op="conv_block") is None
    assert (tmp_path / "gpu.md").read_text() == "1 steps\n"
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        store.add("checks", {"op": "conv_block"}, "done", {})
    assert (tmp_path / "gpu.json").read_text() == written
