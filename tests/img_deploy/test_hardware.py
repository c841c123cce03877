"""What the machine tells of itself."""

import subprocess
import sys
import time

from img_deploy.hardware import OtherPrograms


def test_a_busy_program_counts_and_ones_own_work_does_not(monkeypatch):
    """Figures of a shared machine would pass for its own; or one's own work would be called a disturbance."""
    begin, end = (10.0, 100.0, 5.0), (20.0, 117.0, 12.0)
    moments = iter([begin, end])
    monkeypatch.setattr(OtherPrograms, "_now", staticmethod(lambda: next(moments)))
    assert OtherPrograms().cores() == 1.0


def test_the_clock_of_the_cpus_moves_with_a_busy_program():
    """Idle time would be taken for work."""
    _, busy, own = OtherPrograms._now()
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(100):  # more than a second only where other programs leave it no core
            time.sleep(0.5)
            _, busy_after, own_after = OtherPrograms._now()
            if busy_after - busy > 0.3:
                break
    finally:
        program.kill()
        program.wait()
    assert busy_after - busy > 0.3
    assert own_after - own < 0.5
