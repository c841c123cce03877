"""PyTorch's ahead-of-time compiled packages (AOTInductor), which need torch but no Python code of the network."""

from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import BackendError
from img_deploy.hardware import cuda_devices
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.model.graphs import GraphSpec, graph_specs
from img_deploy.runtime.aoti_files import HOW_TO_BUILD, AotiPackages, packages_in, this_machine
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.backends.buckets import sizes_of
from img_deploy.runtime.bundle import Bundle

if TYPE_CHECKING:
    from torch import Tensor

Package = Callable[..., "list[Tensor]"]

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def unavailable(device: str, bundle: Bundle | None) -> str | None:
    """Why it cannot run; None if it can. torch is imported only where there is a GPU to ask it about."""
    if device == "cuda" and not cuda_devices():
        return "no NVIDIA GPU"
    if find_spec("torch") is None:
        return "torch is not installed"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return f"torch {torch.__version__} cannot use the GPU"
    if bundle is None:
        return None
    packages = packages_in(bundle, device)
    if packages is None:
        return f"the bundle has no {bundle.manifest.precision} packages for {device}; {HOW_TO_BUILD}"
    why = packages.machine.unfit(this_machine(device))
    return why and f"its packages do not run here ({why}); {HOW_TO_BUILD}"


def open_backend(device: str, bundle: Bundle, threads: int | None) -> "AotiBackend":
    """Loads every package. ``threads`` holds for all of PyTorch in this process. Raises BackendError, BundleError."""
    import torch
    from torch._inductor import aoti_load_package

    packages = packages_in(bundle, device)
    if packages is None or (why := packages.machine.unfit(this_machine(device))):
        raise BackendError(f"backend aoti: {why if packages else 'the bundle has no packages'}; {HOW_TO_BUILD}")
    if threads is not None:
        torch.set_num_threads(threads)
    _register_ops()
    paths = {graph: bundle.file(file) for graph, file in packages.graphs.items()}  # all checked before any is run
    loaded = {}
    for graph, path in paths.items():
        try:
            loaded[graph] = aoti_load_package(str(path))
        except RuntimeError as error:
            raise BackendError(f"backend aoti: {path} does not load ({_line(error)})") from None
    return AotiBackend(loaded, packages, graph_specs(bundle.manifest.model))


def _register_ops() -> None:
    """A package calls the ops that it holds as single nodes by name."""
    from importlib import import_module

    for name in OP_NAMES:
        import_module(f"img_deploy.kernels.{name}")


class AotiBackend:
    """The packages of one bundle; each checks the sizes it is given against those it was compiled for."""

    name = "aoti"

    def __init__(self, loaded: dict[str, Any], packages: AotiPackages, specs: dict[str, GraphSpec]) -> None:
        self.device, self.precision = packages.machine.device, packages.precision
        self._loaded, self._packages, self._specs = loaded, packages, specs
        self._lock = Lock()

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        import torch

        spec = self._specs[graph]
        self._packages.check(graph, sizes_of(spec, feeds))
        with self._lock, torch.inference_mode():
            if graph not in self._loaded:
                raise BackendError("backend aoti: was closed; load the bundle again")
            inputs = [self._tensor(feeds[tensor.name], tensor.dtype) for tensor in spec.inputs]
            try:
                outputs = self._loaded[graph](*inputs)
            except RuntimeError as error:
                raise BackendError(f"backend aoti: {graph} failed ({_line(error)})") from None
            return {tensor.name: _array(value) for tensor, value in zip(spec.outputs, outputs, strict=True)}

    def _tensor(self, array: NDArray[Any], dtype: str) -> "Tensor":
        """A package reads memory as it was told at compilation: type and layout have to be just those."""
        import torch

        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        kind = getattr(torch, _DTYPES[self.precision] if dtype == "float" else dtype)
        return tensor.to(device=self.device, dtype=kind)

    def close(self) -> None:
        with self._lock:
            self._loaded.clear()


def _array(value: "Tensor") -> NDArray[Any]:
    import torch

    value = value.float() if value.dtype == torch.bfloat16 else value
    array: NDArray[Any] = value.cpu().numpy()
    return array


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
