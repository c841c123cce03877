"""Where and with what a measurement was made."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from img_deploy.benchmarks import environment
from img_deploy.benchmarks.environment import Neighbours

LINUX = Path("/proc/stat").exists()


def test_everything_that_a_figure_depends_on_is_plain_values():
    """A result without its machine and versions cannot be compared with anything."""
    where = json.loads(json.dumps(environment.environment(threads=3)))
    assert {"time", "commit", "machine", "versions", "threads"} <= where.keys()
    assert where["threads"] == 3
    assert where["machine"]["cpus"] >= 1
    assert {"python", "torch", "numpy"} <= where["versions"].keys()
    line = environment.headline(where)
    assert where["machine"]["cpu"] in line
    assert f"torch {where['versions']['torch']}" in line
    assert "threads 3" in line


def test_no_commit_outside_a_checkout(monkeypatch, tmp_path):
    """An installed package would be said to be the commit of whatever folder it is used in."""
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "site-packages" / "environment.py"))
    assert environment.commit() is None


@pytest.mark.skipif(not LINUX, reason="reads /proc/stat")
def test_a_busy_program_counts_and_ones_own_work_does_not(monkeypatch):
    """Figures of a shared machine would pass for its own; or one's own work would be called a disturbance."""
    begin, end = (10.0, 100.0, 5.0), (20.0, 117.0, 12.0)
    moments = iter([begin, end])
    monkeypatch.setattr(Neighbours, "_now", staticmethod(lambda: next(moments)))
    assert Neighbours().cores() == 1.0


@pytest.mark.skipif(not LINUX, reason="reads /proc/stat")
def test_the_clock_of_the_cpus_moves_with_a_busy_program():
    """The columns of /proc/stat would be counted wrongly, and idle time be taken for work."""
    _, busy, own = Neighbours._now()
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(100):  # more than a second only where other programs leave it no core
            time.sleep(0.5)
            _, busy_after, own_after = Neighbours._now()
            if busy_after - busy > 0.3:
                break
    finally:
        program.kill()
        program.wait()
    assert busy_after - busy > 0.3
    assert own_after - own < 0.5


def test_a_system_that_does_not_say_gives_no_figure(monkeypatch):
    """A profile would end in an error on a system without /proc."""
    monkeypatch.setattr(Neighbours, "_now", staticmethod(lambda: None))
    assert Neighbours().cores() is None
