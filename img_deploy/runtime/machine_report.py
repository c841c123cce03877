"""What this machine has for the backends, as facts: hardware, packages, and the choice of ``auto``."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from img_deploy.errors import BackendError
from img_deploy.hardware import Gpu, Hardware, cuda_devices, hardware, package_versions
from img_deploy.runtime.backends.choose import choose, survey
from img_deploy.runtime.backends.onnxruntime import backend as ort
from img_deploy.runtime.bundle import Bundle


@dataclass(frozen=True)
class BackendFact:
    """One way to run the graphs on this machine."""

    label: str
    """Backend and device, ``onnxruntime:cpu``."""
    works: bool
    chosen: bool
    """Whether ``auto`` takes it."""
    reason: str


@dataclass(frozen=True)
class MachineReport:
    """Everything that ``img-deploy doctor`` tells."""

    python: str
    hardware: Hardware
    packages: Mapping[str, str | None]
    """Distribution -> version, None where it is not installed."""
    providers: tuple[str, ...]
    """ONNX Runtime's execution providers."""
    bundle: str | None
    """The bundle that ``backends`` speaks of; None: of bundles in general."""
    backends: tuple[BackendFact, ...]
    """Fastest first."""
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; what is known of the hardware stands beside the rest."""
        values = asdict(self)
        return values.pop("hardware") | values


def machine_report(bundle: Bundle | None = None) -> MachineReport:
    """Ask the machine. With a bundle, ``auto``'s backend is opened on it, so that the answer is what infer will do.

    Raises:
        BundleError: a file of the bundle is missing, damaged or tampered with.
    """
    packages, found = package_versions(), hardware()
    try:
        providers = ort.providers()
    except BackendError:
        providers = ()
    return MachineReport(
        python=platform.python_version(),
        hardware=found,
        packages=packages,
        providers=providers,
        bundle=None if bundle is None else str(bundle.folder),
        backends=backend_facts(bundle),
        warnings=tuple(_warnings(packages, found.gpus, providers)),
    )


def backend_facts(bundle: Bundle | None = None) -> tuple[BackendFact, ...]:
    """Every backend, fastest first: the one that ``auto`` takes, and why each of the others is not taken.

    Raises BundleError: a file of the bundle is missing, damaged or tampered with.
    """
    out = {entry.label: why for entry, why in survey(bundle)}
    taken, notes = None, ""
    for label in [label for label, why in out.items() if why is None]:
        try:
            notes = _opened(bundle, label)
        except BackendError as error:
            out[label] = str(error)
        else:
            taken = label
            break
    reasons = {label: why or f"works; auto prefers {taken}" for label, why in out.items()}
    if taken is not None:
        reasons[taken] = f"auto takes it: the fastest that works here{notes}"
    return tuple(BackendFact(label, out[label] is None, label == taken, why) for label, why in reasons.items())


def _opened(bundle: Bundle | None, label: str) -> str:
    """Open a backend and close it again; what it notes, for the end of a sentence. Raises BackendError."""
    if bundle is None:
        return ""
    backend = choose(bundle, label).backend
    notes = backend.notes()
    backend.close()
    return "".join(f"; {what} ({why})" for what, why in notes.items())


def _warnings(packages: Mapping[str, str | None], found: tuple[Gpu, ...], providers: tuple[str, ...]) -> list[str]:
    """What a user should repair, each with the command that does it."""
    warnings = []
    runtimes = ort.installed()
    keep = "gpu" if found else "cpu"
    if len(runtimes) > 1:
        warnings.append(
            f"{' and '.join(runtimes)} are both installed and overwrite each other's files; keep one: "
            f"pip uninstall -y {' '.join(runtimes)} && pip install 'img-deploy[{keep}]'"
        )
    if not found:
        return warnings
    if not cuda_devices():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cause = "the driver does not start" if visible is None else f"CUDA_VISIBLE_DEVICES is {visible!r}"
        warnings.append(f"{found[0].name} is here, but this process may not use it: {cause}")
        return warnings
    if len(runtimes) == 1 and "CUDAExecutionProvider" not in providers:
        warnings.append(
            f"{found[0].name} is here, but {runtimes[0]} {packages.get(runtimes[0])} runs on the CPU alone: "
            f"pip uninstall -y {runtimes[0]} && pip install 'img-deploy[gpu]'"
        )
    if (packages.get("torch") or "").endswith("+cpu"):
        warnings.append(
            f"{found[0].name} is here, but torch {packages['torch']} is built for the CPU: "
            "install the CUDA build, see https://pytorch.org/get-started/locally"
        )
    return warnings
