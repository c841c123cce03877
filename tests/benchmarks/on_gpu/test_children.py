"""Steps in child processes: every case that is begun has an end on disk, whatever becomes of the child."""

import json
import subprocess
import sys
import time

import pytest

from img_deploy.benchmarks.gpu import CHILD
from img_deploy.benchmarks.on_gpu.children import OUT_OF_TIME, run_in_children
from img_deploy.benchmarks.on_gpu.record import Results

STEP = """
import os, signal, sys, time
from pathlib import Path
from img_deploy.benchmarks.on_gpu.record import BEGUN, DONE, FAILED, Results

results = Results(Path(sys.argv[1]))
if sys.argv[2] == "broken":
    sys.exit("ModuleNotFoundError: no triton")
for number, do in enumerate(sys.argv[2:]):
    case = {"number": number, "do": do}
    if case in [entry.case for entry in results.entries()]:
        continue
    results.add("any", case, BEGUN)
    if do == "crash":
        print("illegal memory access", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "hang":
        time.sleep(60)
    if do == "fail":
        results.add("any", case, FAILED, why="ValueError: no")
        sys.exit(3)
    results.add("any", case, DONE, {"pid": os.getpid(), "interpreted": os.environ["TRITON_INTERPRET"]})
sys.exit(9 if "verdict" in sys.argv else 0)
"""


@pytest.fixture
def entries_of(tmp_path):
    """Function: the entries of a step whose cases do these things, in order."""

    def run(*do, seconds=30.0):
        results = Results(tmp_path / "x.jsonl")
        results.begin({})
        command = (sys.executable, "-c", STEP, str(results.path), *do)
        run_in_children(command, "any", results, seconds, {"TRITON_INTERPRET": "0"})
        return results.entries()

    return run


def test_a_crash_costs_its_own_case(entries_of):
    """One kernel's illegal access would end the run, or every kernel after it would fail for no reason of its own."""
    found = entries_of("ok", "fail", "crash", "ok")
    assert [(entry.case["do"], entry.outcome) for entry in found] == [
        ("ok", "done"),
        ("fail", "failed"),
        ("crash", "failed"),
        ("ok", "done"),
    ]
    assert found[2].why == "its process ended with signal 11: illegal memory access"
    assert found[0].record["pid"] != found[3].record["pid"]


def test_the_deadline_holds(entries_of):
    """A compilation that does not end would take the whole time; what was measured before it would be lost."""
    begin = time.monotonic()
    done, hung, rest = entries_of("ok", "hang", "ok", seconds=6.0)
    assert time.monotonic() - begin < 60
    assert done.outcome == "done"
    assert (hung.case["do"], hung.outcome, hung.why) == ("hang", "skipped", OUT_OF_TIME)
    assert (rest.case, rest.why) == ({"rest": "what was not begun"}, OUT_OF_TIME)


def test_a_child_that_cannot_begin_is_not_tried_again(entries_of):
    """A machine without Triton would start children for ever."""
    (entry,) = entries_of("broken")
    assert (entry.outcome, entry.why) == ("failed", "exit code 1: ModuleNotFoundError: no triton")


def test_a_tool_that_watches_a_child_has_its_say(entries_of):
    """A race that compute-sanitizer found would be lost behind cases that are done."""
    done, _, verdict = entries_of("ok", "verdict")
    assert done.outcome == "done"
    assert (verdict.outcome, verdict.why) == ("failed", "exit code 9")


def test_a_child_ends_with_its_parent(tmp_path):
    """A run that is killed would leave a process on the GPU, which spoils whatever is measured next."""
    results = Results(tmp_path / "x.jsonl")
    results.begin({})
    child = subprocess.Popen((*CHILD, "compiled", "cpu", str(results.path)), stdin=subprocess.PIPE)
    while not results.entries():
        assert child.poll() is None
        time.sleep(0.05)
    child.stdin.close()
    assert child.wait(20) == 1
    assert [entry.outcome for entry in results.entries()] == ["begun"]


def test_half_a_line_is_no_result(tmp_path):
    """A run that was killed while it wrote could not be read."""
    results = Results(tmp_path / "x.jsonl")
    results.begin({"part": "A"})
    results.add("checks", {"op": "a"}, "done", {"share": float("nan"), "all": [float("inf"), 1.0]})
    with results.path.open("a") as file:
        file.write('{"step": "checks", "case": {"op": "b"}, "outco')
    (entry,) = results.entries()
    assert entry.record == {"share": None, "all": [None, 1.0]}
    assert (results.head(), results.seconds()) == ({"part": "A"}, None)
    results.end(2.04)
    assert json.loads(results.path.read_text().splitlines()[1])["outcome"] == "done"
