"""What TensorRT says while it builds: all of it into a file, the worst of it kept, and how far it is."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_WORST = 10


class BuildLog:
    """A log file, and in ``errors`` its last errors. ``logger`` is made for a ``tensorrt`` module."""

    def __init__(self, path: Path, trt: Any) -> None:
        self.path = path
        self.errors: list[str] = []
        self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self.logger = _logger(trt, self)

    def write(self, severity: str, message: str) -> None:
        with suppress(OSError, ValueError):  # an exception that reached TensorRT would end the process
            self._file.write(f"[{severity}] {message}\n")
        if "ERROR" in severity:
            self.errors.append(" ".join(message.split())[:300])
            del self.errors[:-_WORST]

    def why(self) -> str:
        """The last errors, for a message; empty without any."""
        return "; ".join(self.errors[-2:])

    def __enter__(self) -> "BuildLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _logger(trt: Any, log: BuildLog) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.write(getattr(severity, "name", str(severity)), str(msg))

    return Logger()


def progress_monitor(trt: Any, tell: Callable[[str], None]) -> Any:
    """Tells of each outermost phase of a build how much of it is done, in tenths.

    Ctrl-C ends the build after its current step, and sets ``interrupted``; no exception may reach TensorRT.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told: dict[str, int] = {}
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                self._told[phase_name] = 0

        def step_complete(self, phase_name: str, step: int) -> bool:
            if steps := self._steps.get(phase_name, 0):
                tenths = 10 * (step + 1) // steps
                if tenths > self._told[phase_name]:
                    self._told[phase_name] = tenths
                    try:
                        tell(f"{phase_name}: {10 * tenths}%")
                    except KeyboardInterrupt:
                        self.interrupted = True
                    except Exception:  # nobody listens any more
                        self._steps.clear()
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
