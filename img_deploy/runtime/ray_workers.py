"""Work that is done by Ray's actors. Each holds the bundle, and a GPU of its own where the cluster has GPUs.

Plain actors, not Ray Data: results come in order with little ahead of them, and a batch stays the batch it was, so that
rows are those of a run in one process. Needs the extra ``ray``.
"""

import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from img_deploy.errors import BackendError, ImgDeployError, InputError, one_line
from img_deploy.runtime.backends.choose import choose
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.inputs import InputRules
from img_deploy.runtime.predictor import Predictor
from img_deploy.runtime.workers import Item, Result, Work

AHEAD = 2
"""Items that a worker has at a time: the next is there when one is done."""
RETRIES = 3
"""How often an item is given out again after its worker died."""


class _Worker:
    """What runs in an actor. A worker that died starts anew, and opens the bundle when the next item comes."""

    def __init__(self, opening: list[Any]) -> None:
        self._opening = opening
        self._made: Any = None
        self._work: Any = None

    @cached_property
    def predictor(self) -> Predictor:
        import ray

        folder, rules, backend, threads = ray.get(self._opening[0])
        bundle = Bundle.open(folder)
        return Predictor(bundle, rules, choose(bundle, backend, threads))

    def facts(self) -> tuple[str, str]:
        return self.predictor.backend, str(self.predictor.choice)

    def notes(self) -> dict[str, str]:
        return dict(self.predictor.choice.backend.notes())

    def do(self, made: list[Any], item: Any) -> Any:
        """An item's result; ``made`` holds a reference to what makes the work, which is fetched once."""
        import ray

        if made != self._made:
            self._work, self._made = ray.get(made[0])(self.predictor), made
        return self._work(item)


class RayWorkers:
    """See :class:`~img_deploy.runtime.workers.Workers`. The cluster is that of ``RAY_ADDRESS``, else this machine."""

    def __init__(
        self, bundle: Bundle, rules: InputRules, backend: str, threads: int | None, count: int | None = None
    ) -> None:
        self.bundle, self.rules = bundle, rules
        ray, threads = _connected(), threads or 1
        has = ray.cluster_resources()
        gpus = 0 if backend.endswith(":cpu") else int(has.get("GPU", 0))
        room = min(gpus or int(has.get("CPU", 0)), int(has.get("CPU", 0)) // threads)
        if not 0 < (count or room) <= room:
            raise InputError(
                f"--workers: got {count or 1} of {threads} threads, but the cluster has room for {room} "
                f"({has.get('CPU', 0):.0f} CPUs, {gpus} GPUs); ask for fewer, or start more nodes"
            )
        options = {"num_cpus": threads, "num_gpus": int(gpus > 0), "max_restarts": -1, "max_task_retries": RETRIES}
        make = ray.remote(_Worker).options(**options).remote
        self._opening = [ray.put((bundle.folder.resolve(), rules, backend, threads))]  # kept: a new worker asks again
        self._actors = [make(self._opening) for _ in range(count or room)]
        facts = {_result(one) for one in [actor.facts.remote() for actor in self._actors]}
        if len({name for name, _ in facts}) > 1:
            names = ", ".join(sorted(name for name, _ in facts))
            raise BackendError(f"ray: the workers have chosen different backends ({names}); name one with --backend")
        self.backend, self._choice = min(facts)

    def __str__(self) -> str:
        return f"ray, {len(self._actors)} workers: {self._choice}"

    def map(
        self, make: Callable[[Predictor], Work[Item, Result]], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        import ray

        made, left = [ray.put(make)], iter(items)
        free = deque(self._actors * AHEAD)
        busy: dict[Any, Any] = {}  # reference to a result -> the actor at work on it
        given: deque[tuple[Item, Any]] = deque()  # in order, with those that are done before their turn
        most = 2 * len(free)
        while True:
            while free and len(given) < most:
                try:
                    item = next(left)
                except StopIteration:
                    most = 0
                    break
                actor = free.popleft()
                result = actor.do.remote(made, item)
                busy[result] = actor
                given.append((item, result))
            if not given:
                return
            if given[0][1] in busy:
                for result in ray.wait(list(busy), num_returns=1)[0]:
                    free.append(busy.pop(result))
            else:
                item, result = given.popleft()
                yield item, _result(result)

    def notes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for notes in [actor.notes.remote() for actor in self._actors]:
            found |= _result(notes)
        return found


def _connected() -> Any:
    """Ray, connected to a cluster. Raises InputError."""
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'img-deploy[ray]'") from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "lance is not fork-safe")  # what Ray forks becomes another program
                ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = os.environ.get("RAY_ADDRESS", "this machine")
            raise InputError(f"--engine ray: no cluster at {where} ({one_line(error, 160)})") from None
    return ray


def _result(reference: Any) -> Any:
    """Raises BackendError, and what the worker raised where it is an error of this program."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ImgDeployError):
            raise error.cause from None
        raise BackendError(f"ray: a worker failed ({one_line(error.cause, 200)})") from None
    except ray.exceptions.RayError as error:
        raise BackendError(
            f"ray: a worker died, and {RETRIES} more at the same work ({one_line(error, 160)}); its log is in "
            "/tmp/ray/session_latest/logs on its node"
        ) from None
