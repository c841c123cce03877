"""What TensorRT says while it builds: all of it into a file, the worst of it kept, and how far it is."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from img_deploy.errors import one_line

_WORST = 10
_LAYER = re.compile(r"^Name: (.*?), LayerType: (\w+)", re.MULTILINE)
_SCRATCH = re.compile(r"Total Activation Memory: (\d+) bytes")


class BuildLog:
    """A log file, its last errors in ``errors`` and its warnings in ``warnings``. ``logger`` is for a library."""

    def __init__(self, path: Path, trt: Any) -> None:
        self.path = path
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.scratch_bytes = 0
        """GPU memory that the engine works in, as the builder says."""
        self._layers: list[str] = []
        self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self.logger = _logger(trt, self)

    def write(self, severity: str, message: str) -> None:
        with suppress(OSError, ValueError):  # an exception that reached TensorRT would end the process
            self._file.write(f"[{severity}] {message}\n")
        if "ERROR" in severity:
            self.errors.append(one_line(message, 300))
            del self.errors[:-_WORST]
        elif severity == "WARNING":
            self.warnings.append(one_line(message, 300))
        for size in _SCRATCH.findall(message):
            self.scratch_bytes = max(self.scratch_bytes, int(size))
        if message.startswith("Layers:"):
            self._layers = [f"{name} ({kind})" for name, kind in _LAYER.findall(message)]

    def why(self) -> str:
        """The last errors, for a message; empty without any."""
        return "; ".join(self.errors[-2:])

    def layers(self) -> list[str]:
        """The layers of the engine, each with its kind, as the builder lists them in detail at the end."""
        return list(self._layers)

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


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets within the block, where an exception would end the process inside of TensorRT; the
    block ends with KeyboardInterrupt then."""
    stop = threading.Event()
    caught = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set()) if caught else None
    try:
        yield stop
    finally:
        if caught:
            signal.signal(signal.SIGINT, before)
    if stop.is_set():
        raise KeyboardInterrupt


def progress_monitor(trt: Any, tell: Callable[[str], None], stop: threading.Event) -> Any:
    """Tells of each outermost phase of a build how much of it is done, in tenths; ends the build once ``stop`` is set.

    No exception may reach TensorRT.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told: dict[str, int] = {}

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
                        stop.set()
                    except Exception:  # nobody listens any more
                        self._steps.clear()
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
