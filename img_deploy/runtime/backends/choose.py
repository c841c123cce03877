"""Which backend answers: the one asked for, or the fastest that works on this machine.

Needs neither torch nor ONNX Runtime: a backend's module is imported when its turn comes.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from img_deploy.errors import BackendError, InputError
from img_deploy.hardware import MOST_THREADS
from img_deploy.runtime.backends.protocol import Backend
from img_deploy.runtime.inputs import at_least_one

if TYPE_CHECKING:
    from img_deploy.runtime.bundle import Bundle

AUTO = "auto"


class BackendModule(Protocol):
    """What a backend's module offers."""

    def unavailable(self, device: str, bundle: "Bundle | None") -> str | None:
        """Why it cannot run on this machine (or this bundle, where one is given); None if it can. Cheap."""

    def open_backend(self, device: str, bundle: "Bundle", threads: int | None) -> Backend:
        """Raises BackendError where it turns out that it cannot run."""


@dataclass(frozen=True)
class Entry:
    """One way to run the graphs: a backend on a kind of device."""

    name: str
    device: str
    module: str

    @property
    def label(self) -> str:
        return f"{self.name}:{self.device}"

    def load(self) -> BackendModule:
        return cast(BackendModule, import_module(self.module))


_HERE = __name__.rpartition(".")[0]

REGISTRY: tuple[Entry, ...] = (
    Entry("tensorrt", "cuda", f"{_HERE}.tensorrt.backend"),
    Entry("tensorrt-rtx", "cuda", f"{_HERE}.tensorrt.rtx"),
    Entry("triton", "cuda", f"{_HERE}.triton.backend"),
    Entry("onnxruntime", "cuda", f"{_HERE}.onnxruntime.gpu"),
    Entry("torch", "cuda", f"{_HERE}.torch.backend"),
    # After torch, which runs wherever there is a GPU: its first run takes minutes, so it has to be asked for.
    Entry("onnxruntime-tensorrt", "cuda", f"{_HERE}.onnxruntime.tensorrt_provider"),
    Entry("onnxruntime", "cpu", f"{_HERE}.onnxruntime.backend"),
    Entry("torch", "cpu", f"{_HERE}.torch.backend"),
)
"""Fastest first."""


@dataclass(frozen=True)
class Choice:
    """A backend at work, and how it came to be chosen."""

    backend: Backend
    reason: str
    out: dict[str, str] = field(default_factory=dict)
    """Label of each entry that was passed over -> why."""

    def __str__(self) -> str:
        backend = self.backend
        others = "".join(f"; {reason}" for reason in grouped(self.out))
        return f"backend {backend.name} on {backend.device}, {backend.precision} ({self.reason}{others})"


def grouped(out: dict[str, str]) -> list[str]:
    """One reason each, with everything that it holds for.

    >>> grouped({"a:cuda": "no GPU", "b:cuda": "no GPU", "c:cpu": "not installed"})
    ['a:cuda, b:cuda: no GPU', 'c:cpu: not installed']
    """
    labels: dict[str, list[str]] = {}
    for label, why in out.items():
        labels.setdefault(why, []).append(label)
    return [f"{', '.join(those)}: {why}" for why, those in labels.items()]


def has_packages(bundle: "Bundle") -> bool:
    """Whether an earlier version put compiled packages into a bundle."""
    return any(name.startswith("aoti/") for name in bundle.manifest.files)


def backend_names() -> list[str]:
    """What :func:`choose` takes beside ``auto``, fastest first."""
    return list(dict.fromkeys(entry.name for entry in REGISTRY))


def survey(bundle: "Bundle | None" = None) -> list[tuple[Entry, str | None]]:
    """Every entry, fastest first, with why it cannot run here; None where it can."""
    return [(entry, entry.load().unavailable(entry.device, bundle)) for entry in REGISTRY]


def choose(bundle: "Bundle", name: str = AUTO, threads: int | None = None) -> Choice:
    """Open a backend on a bundle.

    Args:
        name: ``auto``, a backend's name, or its name and device (``onnxruntime:cpu``).
        threads: CPU threads it may use; None leaves it to the backend.

    Raises:
        InputError: no such backend, or not a whole number of threads from 1 on.
        BackendError: it cannot run here; says why of each entry that was tried.
        BundleError: a file of the bundle is missing, damaged or tampered with.
    """
    if threads is not None and (threads := at_least_one("threads", threads)) > MOST_THREADS:
        raise InputError(f"threads: got {threads}, expected 1 to {MOST_THREADS}")
    entries = [entry for entry in REGISTRY if name in (AUTO, entry.name, entry.label)]
    if not entries:
        raise InputError(f"backend: got {name!r}, expected one of {', '.join([AUTO, *backend_names()])}")
    out = {"aoti": "its packages in this bundle are no longer used"} if has_packages(bundle) else {}
    for entry in entries:
        why = entry.load().unavailable(entry.device, bundle)
        if why is None:
            try:
                backend = entry.load().open_backend(entry.device, bundle, threads)
            except BackendError as error:
                why = str(error)
            else:
                reason = "the fastest that works here" if name == AUTO else "as asked for"
                return Choice(backend, reason, out)
        out[entry.label] = why
    tried = "; ".join(grouped(out))
    raise BackendError(f"backend {name}: none works on this machine ({tried})")
