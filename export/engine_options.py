"""What building a TensorRT engine can be told."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from img_deploy.errors import InputError, validation_problems
from img_deploy.runtime.backends.tensorrt.records import Where

DEFAULT_MAX_BATCH = 64


@dataclass(frozen=True)
class EngineOptions:
    """:meth:`of` says what is wrong with values that a user gave."""

    max_batch: Annotated[int, Field(ge=1, le=1024)] = DEFAULT_MAX_BATCH
    """Largest batch; two profiles are built, for one sample and for 2 to this many."""
    workspace_mib: Annotated[int, Field(ge=1)] | None = None
    """Most GPU memory that a layer may use while it runs; None leaves it to TensorRT (all of the GPU)."""
    hardware: Where = "same_gpu"
    """``same_gpu`` (the fastest), ``same_capability``, or ``ampere_plus``: where the engine may run."""
    version_compatible: bool = False
    """Whether later TensorRT releases of the same major version may run it; it is larger and may be slower."""
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    """0 to 5: how long TensorRT looks for faster kernels."""
    timing_cache: Path | None = None
    """File with timings of earlier builds, read and written; None keeps one in the user's cache folder."""
    plugins: bool = True
    """Whether the fused ops run as our kernels; without, TensorRT runs their standard ops."""
    references: bool = False
    """For finding a fault: PyTorch's reference of each op runs in its plugin's place. Such engines work in the process
    that built them, so they are tried and not kept."""

    @classmethod
    def of(cls, **values: Any) -> "EngineOptions":
        """Options from values or their texts. Raises InputError where they are out of range, naming all problems."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(f"engine option {validation_problems(error)}") from None

    @classmethod
    def from_settings(cls, settings: Sequence[str], plugins: bool = True) -> "EngineOptions":
        """Options from ``NAME=VALUE`` texts, as a command line has them.

        Raises InputError: no such option, or a value of another kind or out of range.

        >>> EngineOptions.from_settings(["max_batch=16", "version_compatible=on"]).max_batch
        16
        """
        names = [field.name for field in fields(cls) if field.name != "plugins"]
        given: dict[str, Any] = {"plugins": plugins}
        for setting in settings:
            name, equals, text = setting.partition("=")
            name = name.strip().replace("-", "_")
            if not equals or name not in names:
                raise InputError(f"engine option {setting!r}: expected NAME=VALUE with one of {', '.join(names)}")
            given[name] = text.strip()
        return cls.of(**given)
