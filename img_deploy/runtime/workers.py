"""Where the work of a run is done: in this process, or by the workers of a Ray cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from img_deploy.errors import InputError
from img_deploy.hardware import usable_cpus
from img_deploy.runtime.backends.choose import choose
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.inputs import InputRules
from img_deploy.runtime.predictor import Predictor

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item], Result]


class Workers(Protocol):
    """Predictors of one bundle, which share the items of a run. ``str`` says who they are, for people."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def rules(self) -> InputRules: ...

    @property
    def backend(self) -> str:
        """Name of the backend at work."""

    def map(
        self, make: Callable[[Predictor], Work[Item, Result]], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, in order, as they are ready; few items are taken ahead.

        Args:
            make: the work, of a predictor; safe to use from several threads. What it keeps from one item to the next
                must not change results.

        Raises:
            BackendError: a backend or a worker failed.
        """

    def notes(self) -> dict[str, str]:
        """What went otherwise than planned, and why: see :meth:`Backend.notes`."""


class ThisProcess:
    """One predictor, and some threads that take an item each. A backend of one thread leaves the others to them."""

    def __init__(self, predictor: Predictor, threads: int = 1) -> None:
        self.predictor, self.bundle, self.rules = predictor, predictor.bundle, predictor.rules
        self._threads = threads

    def __str__(self) -> str:
        return str(self.predictor.choice)

    @property
    def backend(self) -> str:
        return self.predictor.backend

    def map(
        self, make: Callable[[Predictor], Work[Item, Result]], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        work = make(self.predictor)
        given: deque[tuple[Item, Future[Result]]] = deque()
        pool = ThreadPoolExecutor(self._threads, "img-deploy")
        try:
            for item in items:
                given.append((item, pool.submit(work, item)))
                if len(given) >= 2 * self._threads - 1:  # of one thread none ahead, of more no thread waits
                    first, result = given.popleft()
                    yield first, result.result()
            for item, result in given:
                yield item, result.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def notes(self) -> dict[str, str]:
        return dict(self.predictor.choice.backend.notes())


def open_workers(
    bundle: Bundle,
    rules: InputRules,
    backend: str,
    threads: int | None,
    engine: str = "local",
    count: int | None = None,
) -> Workers:
    """The workers that are asked for.

    Args:
        backend: as for :func:`~img_deploy.runtime.backends.choose.choose`.
        threads: of the CPU, of each worker; None for all of this process, one for each worker of a cluster. In this
            process each takes a batch of its own, which is faster than a share of one.
        count: workers of a cluster; None for as many as it has room for.

    Raises:
        InputError: no such backend, Ray is not installed, or its cluster has no room for so many.
        BackendError: the backend does not work where it would run.
    """
    if engine == "ray":
        from img_deploy.runtime.ray_workers import RayWorkers

        return RayWorkers(bundle, rules, backend, threads, count)
    if count is not None:
        raise InputError("--workers: is for --engine ray; drop it, or add that")
    predictor = Predictor(bundle, rules, choose(bundle, backend, threads=1))
    # On a GPU, what the host does for one batch and the copies of it overlap with the graph of the other.
    return ThisProcess(predictor, (threads or usable_cpus()) if predictor.choice.backend.device == "cpu" else 2)
