"""Work that is done by Ray's actors. Each holds the bundle, and a GPU of its own where the cluster has GPUs.

Plain actors, not Ray Data: results come in order with little ahead of them, and a batch stays the batch it was, so that
rows are those of a run in one process. Needs the extra ``ray``.
"""

import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
    """What runs in an actor. A worker that died starts anew, and opens the bundle when the next item comes.

    ``opening`` and ``made`` hold a reference each, to how the bundle is opened and to what makes the work. They come
    with every call, and are fetched once.
    """

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._made: Any = None
        self._work: Any = None

    def _opened(self, opening: list[Any]) -> Predictor:
        import ray

        if self._predictor is None:
            here, folder, rules, backend, threads = ray.get(opening[0])
            with suppress(OSError):  # another node may lack it, and have no need of it
                os.chdir(here)  # what is read may lie at relative paths
            bundle = Bundle.open(folder)
            self._predictor = Predictor(bundle, rules, choose(bundle, backend, threads))
        return self._predictor

    def facts(self, opening: list[Any]) -> tuple[str, str]:
        predictor = self._opened(opening)
        return predictor.backend, str(predictor.choice)

    def notes(self, opening: list[Any]) -> dict[str, str]:
        return dict(self._opened(opening).choice.backend.notes())

    def do(self, opening: list[Any], made: list[Any], item: Any) -> Any:
        import ray

        if made != self._made:
            self._work, self._made = ray.get(made[0])(self._opened(opening)), made
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
        self._opening = [ray.put((os.getcwd(), bundle.folder, rules, backend, threads))]
        self._actors = [make() for _ in range(count or room)]
        facts = {_result(one) for one in [actor.facts.remote(self._opening) for actor in self._actors]}
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
                result = actor.do.remote(self._opening, made, item)
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
        for notes in [actor.notes.remote(self._opening) for actor in self._actors]:
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
                # By default Ray would look for one that began here, and wait for it where it has died.
                address = os.environ.get("RAY_ADDRESS", "local")
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = os.environ.get("RAY_ADDRESS", "this machine")
            raise InputError(
                f"--engine ray: no cluster at {where} ({one_line(error, 160)}); start one, or set RAY_AUTH_MODE=token "
                "where it wants a token"
            ) from None
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
