"""Branches of the network on streams of their own, without a GPU."""

from types import SimpleNamespace

import pytest

from img_deploy.runtime.backends.triton.side_streams import SideStreams


def test_branches_wait_for_what_they_read_and_are_waited_for():
    """A branch on a stream of its own would read clips that are not written yet, or its result be read too early."""
    told = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

    class Cuda(SimpleNamespace):
        def stream(self, stream):
            outer = self.current

            class Inside:
                def __enter__(_):
                    self.current = stream

                def __exit__(_, *error):
                    self.current = outer

            return Inside()

    cuda = Cuda(current=Stream("main"))
    cuda.current_stream = lambda: cuda.current

    def part(name):
        return lambda: told.append(f"{name} on {cuda.current.name}") or name

    side = SideStreams([Stream("first"), Stream("second")], cuda)
    assert side(part("local"), part("event"), part("whole")) == ["local", "event", "whole"]
    assert told == [
        "first waits for main",
        "local on first",
        "second waits for main",
        "event on second",
        "whole on main",
        "main waits for first",
        "main waits for second",
    ]
    with pytest.raises(ValueError, match="got 4 branches, expected at most 3"):
        side(*[part("x")] * 4)
