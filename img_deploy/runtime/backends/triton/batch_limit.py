"""Runs on as many samples at a time as fit the memory of the device, found out by trying."""

from collections.abc import Callable
from typing import TypeVar

from img_deploy.errors import BackendError, one_line

Part = TypeVar("Part")


class BatchLimit:
    """How many samples a run may take: fewer once a run has not fitted, never more again.

    Args:
        most: samples that a run may take at first.
        smaller: the next number to try after one that did not fit.
        free: gives back what memory can be given back, before a smaller run is tried.
    """

    def __init__(self, most: int, smaller: Callable[[int], int], free: Callable[[], None]) -> None:
        self.most, self._smaller, self._free = most, smaller, free

    def in_parts(self, batch: int, run: Callable[[slice], Part], what: str) -> list[Part]:
        """What ``run`` gives for consecutive parts of ``batch`` samples, in order.

        Args:
            run: called again with a smaller part where its error :func:`is_out_of_memory`.
            what: for the message.

        Raises:
            BackendError: a single sample does not fit.
            And what else ``run`` raises.
        """
        parts: list[Part] = []
        begin = 0
        while begin < batch:
            size = min(self.most, batch - begin)
            try:
                parts.append(run(slice(begin, begin + size)))
                begin += size
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = one_line(error, 120)
            # Only here, after the error: its traceback holds what the run that failed had allocated.
            self._free()
            if size == 1:
                raise BackendError(f"{what}: one sample does not fit the memory of the GPU ({reason})")
            self.most = min(self.most, self._smaller(size))
        return parts


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of PyTorch, or one that it was raised from or while handling, tells of exhausted memory."""
    while error is not None:
        text = str(error).lower()
        if type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "alloc_failed" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
