"""Smaller batches where the memory of the device does not suffice."""

import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import BackendError
from img_deploy.runtime.backends.buckets import Ladders
from img_deploy.runtime.backends.triton.batch_limit import BatchLimit, is_out_of_memory

LADDERS = Ladders.up_to({"clips": 1, "words": 1, "chars": 4})


class Device:
    """Has room for so many samples at a time; counts what is asked of it."""

    def __init__(self, room):
        self.room, self.tried, self.freed = room, [], 0
        self.limit = BatchLimit(256, lambda size: LADDERS.below("batch", size), self.free)

    def free(self):
        self.freed += 1

    def run(self, rows):
        size = rows.stop - rows.start
        self.tried.append(size)
        if size > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return list(range(rows.start, rows.stop))


@given(room=st.integers(1, 256), batches=st.lists(st.integers(0, 700), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_every_sample_is_run_once_and_in_order(room, batches):
    """A sample would be left out, answered twice or given another's answer after a retry."""
    device = Device(room)
    for batch in batches:
        parts = device.limit.in_parts(batch, device.run, "grounder")
        assert [row for part in parts for row in part] == list(range(batch))
        assert all(len(part) <= room for part in parts)


def test_what_did_not_fit_is_not_tried_again():
    """Each request would run out of memory anew before it is answered."""
    device = Device(20)
    device.limit.in_parts(100, device.run, "grounder")
    assert device.freed == sum(size > 20 for size in device.tried) > 0
    device.tried.clear()
    device.limit.in_parts(100, device.run, "grounder")
    assert max(device.tried) <= 20


def test_memory_is_given_back_before_the_smaller_run():
    """Graphs kept for earlier requests would hold the memory that the smaller run needs."""
    device = Device(0)
    device.limit = BatchLimit(8, lambda size: LADDERS.below("batch", size), lambda: setattr(device, "room", 4))
    assert device.limit.in_parts(8, device.run, "grounder") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert device.tried == [8, 4, 4]


def test_what_the_failed_run_held_is_gone_before_memory_is_given_back():
    """The error's traceback would keep the tensors of the failed run, and the smaller run would fail as well."""

    class Tensor:
        pass

    held = []

    def run(rows):
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        if rows.stop - rows.start > 1:
            raise RuntimeError("CUDA error: out of memory")
        return tensor

    def free():
        gc.collect()
        assert held[-1]() is None

    BatchLimit(8, lambda size: size // 2, free).in_parts(4, run, "grounder")


def test_one_sample_that_does_not_fit_is_an_error_of_one_line():
    """It would be tried for ever, or end in a traceback."""
    device = Device(0)
    with pytest.raises(BackendError, match=r"^grounder: one sample does not fit the memory of the GPU \(CUDA out of"):
        device.limit.in_parts(3, device.run, "grounder")
    assert device.tried == [3, 1]


def test_which_errors_tell_of_memory():
    """A wrong shape would be tried again in smaller batches; exhausted memory would end the run."""

    class OutOfMemoryError(RuntimeError):
        pass

    assert is_out_of_memory(OutOfMemoryError("CUDA: no"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert not is_out_of_memory(RuntimeError("out of resource: shared memory, required: 300000"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    spoiled = RuntimeError("operation failed due to a previous error during capture")
    spoiled.__context__ = OutOfMemoryError("tried to allocate")
    assert is_out_of_memory(spoiled), "a capture that ends in exhausted memory reports another error"


def test_other_errors_are_not_tried_again():
    """A wrong shape would be run in ever smaller parts, and be told of as exhausted memory."""
    tried = []

    def run(rows):
        tried.append(rows)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        BatchLimit(8, lambda size: size // 2, lambda: None).in_parts(4, run, "grounder")
    assert len(tried) == 1


def test_pytorchs_own_error_is_recognised():
    """The class is told by its name, which could change."""
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
