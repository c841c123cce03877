"""What a terminal shows: a bar with rate and time left, and a table whose cells stay whole."""

import fcntl
import os
import re
import select
import struct
import sys
import termios
import time
from types import SimpleNamespace

import pytest

from img_deploy.cli import progress_bar

pty = pytest.importorskip("pty", reason="terminals are a POSIX matter")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(columns, *arguments):
    """Exit code and text of a command on a terminal of so many columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "img_deploy.cli.main", *map(str, arguments)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    shown, deadline = b"", time.monotonic() + 300
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux's end of file
            break
        if not part:
            break
        shown += part
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), CONTROL.sub("", shown.decode())


@pytest.mark.parametrize("columns", [60, 200])
def test_bar_and_table(bundles, features, columns):
    """Nobody would see how long a run takes, or numbers would be torn apart where the terminal is narrow."""
    options = ("--bundle", bundles["tiny_glove"], "--backend", "torch", "--threads", 1, "--clip-seconds", "1.5")
    code, shown = on_terminal(columns, "infer", features.folder, *options, "--query", "w001 w002", "--top-k", 2)
    assert code == 0
    assert re.search(r"answering .* [1-6]/6", shown)
    lines = shown.splitlines()
    header = next(line for line in lines if "start s" in line)
    assert header.split() == [
        "video",
        "rank",
        "start",
        "s",
        "end",
        "s",
        "clips",
        "of",
        "score",
        "x",
        "chance",
        "head",
        "sound",
    ]
    for vid in "ABCDEF":
        found = [line.split() for line in lines if re.match(rf" ?{vid} +[12] ", line)]
        assert len(found) in (1, 2)
        assert {len(cells) for cells in found} == {10}
    assert "6 of 6 pairs answered" in lines[-1]


def test_the_rate_is_that_of_this_run():
    """A resumed run would boast with the rows of the run before, or the first lot promise thousands per second."""
    task = SimpleNamespace(elapsed=2.0, completed=30.0, fields={"before": 20})
    assert progress_bar._rate(task) == 5.0
    task.elapsed = 0.01
    assert progress_bar._rate(task) == 0.0
    task.elapsed, task.completed = 4.0, 20.0
    assert progress_bar._rate(task) == 0.0
