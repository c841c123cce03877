"""The batches of a whole run, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from img_deploy.training.data import Batch, GroundingData, Ints, Queries
from img_deploy.training.labels import sample_saliency_clips
from img_deploy.training.losses import Targets


class TrainingTargets:
    """Labels of a split's queries, and the clips of the saliency loss, drawn anew for every epoch.

    The draw depends on the seed, the epoch and the query, not on the batches.
    """

    def __init__(self, data: GroundingData, queries: Queries, seed: int) -> None:
        self._clips, self._seed = data.clips(queries), seed
        self._start, self._end = data.labels(queries).T
        self._epoch = -1
        self._drawn: tuple[Ints, Ints] = (self._start, self._start)

    def of(self, epoch: int, rows: Sequence[int] | Ints) -> Targets:
        """Targets of the queries at ``rows``."""
        if epoch != self._epoch:
            self._drawn = sample_saliency_clips(self._start, self._end, self._clips, (self._seed, epoch))
            self._epoch = epoch
        parts = (self._start, self._end, *self._drawn)
        return Targets(*(torch.from_numpy(part[rows]) for part in parts))


class StepBatches(Dataset[Batch]):
    """Item k is the batch of step k of the run, whoever asks for it, in whatever order.

    Args:
        batch_size: queries per step over all devices.
        rank, world: which share of each step's queries this process takes.
    """

    def __init__(
        self, data: GroundingData, queries: Queries, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self._data, self._queries, self._size, self._seed = data, queries, batch_size, seed
        self._rank, self._world = rank, world
        self.epoch_steps = -(-len(queries) // batch_size)
        self._targets = TrainingTargets(data, queries, seed)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __getitem__(self, step: int) -> Batch:
        epoch, number = divmod(step, self.epoch_steps)
        rows = self.order(epoch)[number * self._size : (number + 1) * self._size]
        if short := -len(rows) % self._world:
            rows = np.concatenate([rows, rows[:1].repeat(short)])  # every device takes as many
        rows = rows[self._rank :: self._world]
        return self._data.batch(self._queries, rows.tolist(), self._targets.of(epoch, rows))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The queries' order in an epoch."""
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._queries))
            self._epoch = epoch
        return self._order


class Steps(Sampler[int]):
    """Steps from ``first`` to the end of the run; as long as the whole run, for Lightning's count."""

    def __init__(self, first: int, total: int) -> None:
        self.first, self.total = first, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        return self.total


class StepLoader(DataLoader[Batch]):
    """Loads step after step. Its place in the run is the step it begins at: there is no other state."""

    def __init__(self, batches: StepBatches, first: int, total: int, workers: int = 0, pin: bool = False) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=Steps(first, total),
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=4 if workers else None,
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, _state: dict[str, Any]) -> None:
        pass
