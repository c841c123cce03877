"""The two editions of TensorRT: the full one, and TensorRT for RTX. Their Python interfaces are nearly the same."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from img_deploy.errors import BackendError, one_line


@dataclass(frozen=True)
class Edition:
    """One of them."""

    name: Literal["tensorrt", "tensorrt-rtx"]
    """Of its backend, its target of ``export``, and its engines in a bundle."""
    title: str
    modules: tuple[str, ...]
    """Names that its Python package goes by."""
    extra: str
    """Of ``pip install 'img-deploy[...]'``."""
    oldest: tuple[int, int]
    """The first version that does."""
    builds_anywhere: bool
    """Whether it builds engines for GPUs that are not there. Such engines fit one compute capability and hold standard
    ops alone."""

    @property
    def how_to_install(self) -> str:
        return f"pip install 'img-deploy[{self.extra}]'"

    @property
    def installed(self) -> bool:
        return any(find_spec(name) for name in self.modules)

    def load(self) -> Any:
        """Its Python package. Raises BackendError: not installed, does not load, or too old."""
        name = next((name for name in self.modules if find_spec(name)), self.modules[0])
        try:
            trt = import_module(name)
            version = trt.__version__
        except (ImportError, AttributeError, OSError) as error:
            raise BackendError(f"{self.name}: does not load ({one_line(error, 160)}); {self.how_to_install}") from None
        if version_numbers(version)[:2] < self.oldest:
            least = ".".join(map(str, self.oldest))
            raise BackendError(f"{self.name}: got version {version}, expected {least} or newer; pip install -U {name}")
        return trt

    def capabilities(self, trt: Any) -> dict[str, Any]:
        """Compute capability (``8.9``) -> the library's name of it, of every GPU that it builds for."""
        found = {}
        for name, member in trt.ComputeCapability.__members__.items():
            if name.startswith("SM"):
                found[f"{name[2:-1]}.{name[-1]}"] = member
        return found


FULL = Edition("tensorrt", "TensorRT", ("tensorrt",), "gpu", (10, 15), builds_anywhere=False)
RTX = Edition(
    "tensorrt-rtx",
    "TensorRT for RTX",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "rtx",
    (1, 7),
    builds_anywhere=True,
)
EDITIONS = {edition.name: edition for edition in (FULL, RTX)}


def version_numbers(version: str) -> tuple[int, ...]:
    """``11.4.0.106`` -> (11, 4, 0, 106); what is no number (``.post1``) ends it."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
