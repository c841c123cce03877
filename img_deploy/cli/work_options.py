"""Options of the commands that go through a whole library: who does the work."""

from enum import StrEnum
from typing import Annotated

import typer

from img_deploy.hardware import MOST_THREADS


class Engine(StrEnum):
    LOCAL = "local"
    RAY = "ray"


ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_THREADS, help="CPU threads, of each worker. Default: the backend's choice; 1 with Ray."
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        help="Who does the work: this process, or the workers of a Ray cluster (that of RAY_ADDRESS, else one on this "
        "machine). The rows are the same."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Ray workers. Default: one per GPU of the cluster, else one per `--threads` CPUs."),
]
