"""PyTorch, eager: the reference that every other backend is held to."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import BackendError, BundleError, CheckpointError, one_line
from img_deploy.hardware import cuda_devices
from img_deploy.model.graphs import graph_specs
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.bundle import WEIGHTS, Bundle

if TYPE_CHECKING:
    from torch import Tensor

    from img_deploy.model.network import IMGNetwork


def unavailable(device: str, bundle: Bundle | None) -> str | None:
    """Why it cannot run; None if it can. torch is imported only where there is a GPU to ask it about."""
    if find_spec("torch") is None:
        return "torch is not installed"
    if bundle is not None and WEIGHTS not in bundle.manifest.files:
        return f"the bundle has no {WEIGHTS}"
    if device == "cuda":
        if not cuda_devices():
            return "no NVIDIA GPU"
        import torch

        if not torch.cuda.is_available():
            return f"torch {torch.__version__} cannot use the GPU"
    return None


def open_backend(device: str, bundle: Bundle, threads: int | None) -> "TorchBackend":
    """Raises BundleError: weights that are missing, damaged or of another configuration.

    ``threads`` holds for all of PyTorch in this process, and so does full float32 precision on a GPU.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda":
        # TF32 convolutions, PyTorch's default, are 1e-3 off: no reference.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return TorchBackend(network_from_bundle(bundle), device)


def network_from_bundle(bundle: Bundle) -> "IMGNetwork":
    """The network with a bundle's weights, on the CPU. Raises BundleError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from img_deploy.model.checkpoint import check_tensors
    from img_deploy.model.network import IMGNetwork

    path = bundle.file(WEIGHTS)
    network = IMGNetwork(bundle.manifest.model)
    try:
        weights = load_file(path)
        check_tensors(weights, network.state_dict(), str(path))
    except (SafetensorError, CheckpointError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise BundleError(f"{path}: does not hold this bundle's weights ({reason}); export it again") from None
    network.load_state_dict(weights)
    return network.eval()


class TorchBackend:
    """The modules of :class:`~img_deploy.model.network.IMGNetwork` as they are trained, in float32."""

    name = "torch"
    precision = "fp32"

    def __init__(self, network: "IMGNetwork", device: str = "cpu") -> None:
        self.device = device
        self._network: IMGNetwork | None = network.to(device).eval()
        self._specs = graph_specs(network.config)

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        import torch

        if self._network is None:
            raise BackendError("backend torch: was closed; load the bundle again")
        spec = self._specs[graph]
        with torch.inference_mode():
            inputs = [self._tensor(feeds[tensor.name], tensor.dtype) for tensor in spec.inputs]
            try:
                outputs = self._network.graphs[graph](*inputs)
            except RuntimeError as error:
                reason = one_line(error, 200)
                raise BackendError(f"backend torch: {graph} failed ({reason})") from None
            return {tensor.name: value.cpu().numpy() for tensor, value in zip(spec.outputs, outputs, strict=True)}

    def _tensor(self, array: NDArray[Any], dtype: str) -> "Tensor":
        import torch

        array = np.require(array, "float32" if dtype == "float" else dtype, ["C", "W"])
        return torch.from_numpy(array).to(self.device)

    def close(self) -> None:
        self._network = None
