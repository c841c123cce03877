"""Branches of the network on streams of their own, without a GPU."""

from types import SimpleNamespace

import torch

from img_deploy.benchmarks.on_gpu.network import TINY, Chain, draw_feeds, on_device, random_network
from img_deploy.model.branches import side_by_side
from img_deploy.runtime.backends.triton.side_streams import SideStreams


class Cuda(SimpleNamespace):
    """What :class:`SideStreams` asks of ``torch.cuda``; ``told`` is what it was asked, in order."""

    def __init__(self):
        told, owner = [], self

        class Stream:
            def __init__(self, name=None):
                self.name = name or f"side {len(owner.made) + 1}"
                owner.made.append(self)

            def wait_stream(self, other):
                told.append(f"{self.name} waits for {other.name}")

        super().__init__(told=told, made=[], Stream=Stream)
        self.current = Stream("main")
        self.made.clear()

    def current_stream(self):
        return self.current

    def stream(self, stream):
        owner, outer = self, self.current

        class Inside:
            def __enter__(_):
                owner.current = stream

            def __exit__(_, *error):
                owner.current = outer

        return Inside()


def test_branches_wait_for_what_they_read_and_are_waited_for():
    """A branch on a stream of its own would read clips that are not written yet, or its result be read too early."""
    cuda = Cuda()

    def part(name):
        return lambda: cuda.told.append(f"{name} on {cuda.current.name}") or name

    side = SideStreams(cuda)
    assert side(part("local"), part("event"), part("whole")) == ["local", "event", "whole"]
    assert cuda.told == [
        "side 1 waits for main",
        "local on side 1",
        "side 2 waits for main",
        "event on side 2",
        "whole on main",
        "main waits for side 1",
        "main waits for side 2",
    ]
    side(part("visual"), part("audio"))
    assert len(cuda.made) == 2, "a stream made anew at every call: during a capture too"
    cuda.told.clear()
    side(lambda: side(part("visual"), part("audio")), part("whole"))
    assert [line for line in cuda.told if " on " in line] == ["visual on side 2", "audio on side 1", "whole on main"]
    cuda.told.clear()
    side(lambda: side(part("visual"), part("audio")), lambda: side(part("words"), part("whole")))
    assert [line for line in cuda.told if " on " in line][2:] == ["words on side 3", "whole on main"], (
        "a branch would wait for the one beside it"
    )


def test_every_branch_of_the_network_finds_a_stream():
    """A backend would fail on the first GPU that it meets: some call has more branches than there are streams."""
    chain, cuda = Chain(random_network(TINY)), Cuda()
    inputs = on_device(draw_feeds(TINY, (4, 2), 4), "fp32", "cpu")
    alone = chain(inputs)
    with side_by_side(SideStreams(cuda)):
        together = chain(inputs)
    assert any(line.startswith("side 1") for line in cuda.told)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)
