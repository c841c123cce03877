"""What a training step launches on a GPU, counted on a CPU."""

import pytest
import torch

from img_deploy.benchmarks.on_gpu.operations import PHASES, count_step
from img_deploy.kernels import functional


@pytest.fixture(scope="module")
def counts():
    return {name: count_step(name) for name in ("ours", "published")}


def launches(count):
    return sum(one.launches for one in count.values())


def test_a_step_launches_few_operations(counts):
    """A small operator in a block is launched many times a step, forward and backward: the host is the slower one."""
    ours = launches(counts["ours"])
    assert 1000 < ours <= 1650, counts["ours"]
    assert launches(counts["published"]) > 1.7 * ours


def test_the_host_never_waits(counts):
    """One number read from the device in mid-step, and nothing is launched until all before it is done."""
    assert sum(one.waits for one in counts["ours"].values()) == 0
    assert counts["published"]["forward"].waits > 0  # of lengths, for packing: they are seen where they are


def test_every_phase_is_counted(counts):
    """A phase that is not seen would pass for one that costs nothing."""
    for count in counts.values():
        assert list(count) == list(PHASES)
        assert all(0 < one.launches < one.calls for one in count.values())


def test_the_sizes_do_not_matter(counts):
    """Counts stand for every batch only if the step has no loop over pairs or clips."""
    larger = count_step("ours", batch=5, clips=9)
    assert launches(larger) == launches(counts["ours"])


def test_counting_leaves_the_cpu_s_branches(counts):
    """What runs in the same process afterwards must not take a GPU's way."""
    assert counts
    assert functional.on_cpu(torch.ones(1))
    drawn = functional.dropout(torch.ones(4096), 0.25)
    assert drawn.unique().tolist() == pytest.approx([0, 4 / 3])
