"""What is asked of a backend."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Values = Any
"""An array of NumPy, or a tensor of PyTorch on the device that computed it."""
Feeds = Mapping[str, Values | list[Values]]
"""Inputs by name: [B, ...], or a list with the real clips or words of each sample, as many as its mask says."""
Outputs = dict[str, Values]
FAULTS = "faults"
"""In host memory: zero where outputs are numbers alone, NaN or True where not. [B, L], of each clip or word that an
encoder leaves on a device; [B], of what a grounder gives."""
BEST_SPAN, BEST_SCORE = "best_span", "best_score"
"""[B, 2] int64 and [B, 1] float64, of a grounder that decodes where it computes: the span and the score that
:func:`img_deploy.runtime.spans.decode_spans` finds best."""
FEATURE_RANGE = "feature_range"
"""[B, 4] float32: least and greatest number of ``video``, then of ``audio``, rounded to the backend's precision."""


def on_host(values: Values) -> NDArray[Any]:
    """Values in host memory; those that lie there are not copied. NumPy has no bfloat16: float32 is given for it."""
    if isinstance(values, np.ndarray):
        return values
    host = values.cpu()
    return host.float().numpy() if str(host.dtype) == "torch.bfloat16" else host.numpy()


class Backend(Protocol):
    """Runs the graphs of one bundle. Safe to use from several threads at once."""

    @property
    def name(self) -> str:
        """The name it is chosen by, e.g. ``onnxruntime``."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def precision(self) -> str:
        """What the graphs compute in, e.g. ``fp32``."""

    @property
    def has_pair(self) -> bool:
        """Whether it runs the graph ``PAIR`` too, and gives :data:`FEATURE_RANGE` then."""

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        """Outputs of a graph, by the names of :func:`img_deploy.model.graphs.graph_specs`.

        What is a ``float`` there (encoded clips and words) may stay on the device, and be given to a later run as it
        is, with :data:`FAULTS` beside it; everything else is in host memory. A backend may add :data:`FAULTS`,
        :data:`BEST_SPAN` with :data:`BEST_SCORE`, and :data:`FEATURE_RANGE`.

        Args:
            graph: one of ``GRAPH_NAMES``, or ``PAIR`` where :attr:`has_pair`.
            feeds: every input of the graph; floating point ones are brought to the graph's precision.

        Raises:
            BackendError: the run failed, or the backend is closed or was inherited through a fork.
            BundleError: the bundle's file of this graph is missing, damaged or tampered with.
        """

    def notes(self) -> dict[str, str]:
        """What did not go as planned -> why: for example a graph that could not be captured and runs slower."""

    def close(self) -> None:
        """Give back what it holds. It cannot run afterwards."""
