"""What is asked of a backend."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


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

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        """Outputs of a graph, by the names of :func:`img_deploy.model.graphs.graph_specs`.

        Args:
            graph: one of ``GRAPH_NAMES``.
            feeds: every input of the graph; floating point ones are brought to the graph's precision.

        Raises:
            BackendError: the run failed, or the backend is closed or was inherited through a fork.
            BundleError: the bundle's file of this graph is missing, damaged or tampered with.
        """

    def notes(self) -> dict[str, str]:
        """What did not go as planned -> why: for example a graph that could not be captured and runs slower."""

    def close(self) -> None:
        """Give back what it holds. It cannot run afterwards."""
