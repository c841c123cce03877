"""Sessions, streams and threads belong to the process that made them. A forked child inherits the objects alone."""

import ctypes
import os
from functools import lru_cache
from weakref import WeakSet

from img_deploy.errors import BackendError

CLOSED = "was closed; load the bundle again"
INHERITED = "this engine was loaded in another process; call load_bundle in this one"


class NativeBackend:
    """Base of the backends: knows whether it can still run. Safe to use from several threads at once."""

    name: str
    has_pair = False

    def __init__(self) -> None:
        self._gone: str | None = None
        _backends.add(self)
        _watch_forks()

    def check_open(self) -> None:
        """Raises BackendError after :meth:`close`, and in a forked child. Called before any lock is taken: the fork may
        have left one held."""
        if self._gone is not None:
            raise BackendError(f"backend {self.name}: {self._gone}")

    def notes(self) -> dict[str, str]:
        """What did not go as planned -> why."""
        return {}

    def close(self) -> None:
        """Give back what it holds, except in a forked child, which holds nothing. It cannot run afterwards."""
        if self._gone is None:
            self._gone = CLOSED
            self._release()

    def _release(self) -> None:
        """Give back what it holds."""


def in_a_fork() -> bool:
    """Whether this process inherited a backend through a fork: thread pools of their libraries are dead in it."""
    return any(backend._gone == INHERITED for backend in _backends)


_backends: WeakSet[NativeBackend] = WeakSet()


@lru_cache(maxsize=1)
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """In a forked child: let go of every backend without destroying it, and of its library at the end of the process.
    Both would wait for threads that only the parent has, or crash."""
    for backend in list(_backends):
        backend._gone = INHERITED
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc; called last in, first out, and before what the libraries have registered
        libc.on_exit(libc._exit, None)
        libc.on_exit(libc.fcloseall, None)
