"""What building a TensorRT engine can be told."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from img_deploy.errors import InputError
from img_deploy.runtime.backends.tensorrt.records import HARDWARE

DEFAULT_MAX_BATCH = 64


@dataclass(frozen=True)
class EngineOptions:
    """Raises InputError where they are out of range; all problems are named together."""

    max_batch: int = DEFAULT_MAX_BATCH
    """Largest batch; two profiles are built, for one sample and for 2 to this many."""
    workspace_mib: int | None = None
    """Most GPU memory that a layer may use while it runs; None leaves it to TensorRT (all of the GPU)."""
    hardware: str = "same_gpu"
    """``same_gpu`` (the fastest), ``same_capability``, or ``ampere_plus``: where the engine may run."""
    version_compatible: bool = False
    """Whether later TensorRT releases of the same major version may run it; it is larger and may be slower."""
    optimization_level: int = 3
    """0 to 5: how long TensorRT looks for faster kernels."""
    timing_cache: Path | None = None
    """File with timings of earlier builds, read and written; None keeps one in the user's cache folder."""
    plugins: bool = True
    """Whether the fused ops run as our kernels; without, TensorRT runs their standard ops."""
    references: bool = False
    """For finding a fault: PyTorch's reference of each op runs in its plugin's place. Such engines work in the process
    that built them, so they are tried and then taken out again."""

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.max_batch <= 1024:
            problems.append(f"max batch: got {self.max_batch}, expected 1 to 1024")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            problems.append(f"workspace: got {self.workspace_mib} MiB, expected at least 1")
        if self.hardware not in HARDWARE:
            problems.append(f"hardware: got {self.hardware!r}, expected one of {', '.join(HARDWARE)}")
        if not 0 <= self.optimization_level <= 5:
            problems.append(f"optimisation level: got {self.optimization_level}, expected 0 to 5")
        if problems:
            raise InputError("; ".join(problems))

    @classmethod
    def from_settings(cls, settings: Sequence[str], plugins: bool = True) -> "EngineOptions":
        """Options from ``NAME=VALUE`` texts, as a command line has them.

        Raises InputError: no such option, or a value of another kind or out of range.

        >>> EngineOptions.from_settings(["max_batch=16", "version_compatible=on"]).max_batch
        16
        """
        given: dict[str, Any] = {"plugins": plugins}
        kinds = {field.name: getattr(field.type, "__name__", str(field.type)) for field in fields(cls)}
        del kinds["plugins"]
        for setting in settings:
            name, equals, text = setting.partition("=")
            name = name.strip().replace("-", "_")
            if not equals or name not in kinds:
                raise InputError(f"engine option {setting!r}: expected NAME=VALUE with one of {', '.join(kinds)}")
            given[name] = _value(name, text.strip(), kinds[name])
        return cls(**given)


def _value(name: str, text: str, kind: str) -> Any:
    if "Path" in kind:
        return Path(text)
    if kind == "bool":
        if text.lower() not in ("on", "off", "true", "false"):
            raise InputError(f"engine option {name}: got {text!r}, expected on or off")
        return text.lower() in ("on", "true")
    if "int" in kind:
        try:
            return int(text)
        except ValueError:
            raise InputError(f"engine option {name}: got {text!r}, expected a number") from None
    return text
