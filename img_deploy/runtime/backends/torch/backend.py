"""PyTorch, eager: the reference that every other backend is held to."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from img_deploy.errors import BackendError, BundleError, CheckpointError, one_line
from img_deploy.hardware import why_no_gpu
from img_deploy.model.graphs import graph_specs
from img_deploy.runtime.backends.lifetime import NativeBackend, in_a_fork
from img_deploy.runtime.backends.padded import stacked
from img_deploy.runtime.backends.protocol import Feeds, Outputs, Values

if TYPE_CHECKING:
    from torch import Tensor

    from img_deploy.model.network import IMGNetwork
    from img_deploy.runtime.bundle import Bundle


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can. torch is imported only where there is a GPU to ask it about."""
    if find_spec("torch") is None:
        return "torch is not installed"
    return (why_no_gpu() if device == "cuda" else None) or why_no_weights(bundle)


def why_no_weights(bundle: "Bundle | None") -> str | None:
    """What a backend says that runs the modules themselves, of a bundle without their weights."""
    if bundle is None:
        return None
    from img_deploy.runtime.bundle import WEIGHTS

    return None if WEIGHTS in bundle.manifest.files else f"the bundle has no {WEIGHTS}"


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "TorchBackend":
    """Raises BundleError: weights that are missing, damaged or of another configuration.

    ``threads`` holds for all of PyTorch in this process, and so does full float32 precision on a GPU.
    """
    import torch

    if in_a_fork():
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda":
        full_float32()
    return TorchBackend(network_from_bundle(bundle), device)


def full_float32() -> None:
    """No TF32 in this process: PyTorch's default for convolutions, it is 1e-3 off."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def network_from_bundle(bundle: "Bundle") -> "IMGNetwork":
    """The network with a bundle's weights, on the CPU. Raises BundleError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from img_deploy.model.checkpoint import check_tensors
    from img_deploy.model.network import IMGNetwork
    from img_deploy.runtime.bundle import WEIGHTS

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


class TorchBackend(NativeBackend):
    """The modules of :class:`~img_deploy.model.network.IMGNetwork` as they are trained, in float32."""

    name = "torch"
    precision = "fp32"

    def __init__(self, network: "IMGNetwork", device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        self._network: IMGNetwork | None = network.to(device).eval()
        self._specs = graph_specs(network.config)
        self._one_thread = in_a_fork()

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        import torch

        self.check_open()
        network, spec = self._network, self._specs[graph]
        assert network is not None
        with torch.inference_mode():
            inputs = [self._tensor(feeds[tensor.name], tensor.dtype) for tensor in spec.inputs]
            try:
                outputs = network.graphs[graph](*inputs)
            except RuntimeError as error:
                raise BackendError(f"backend torch: {graph} failed ({one_line(error, 200)})") from None
            # Encoded clips and words stay where the next graph reads them.
            return {
                tensor.name: value if tensor.dtype == "float" else value.cpu().numpy()
                for tensor, value in zip(spec.outputs, outputs, strict=True)
            }

    def _tensor(self, values: Values | list[Values], dtype: str) -> "Tensor":
        """An input on the device, padded there where it lies there."""
        import torch

        kind = "float32" if dtype == "float" else dtype
        if isinstance(values, list) and any(isinstance(each, torch.Tensor) for each in values):
            rows = [torch.as_tensor(each, dtype=getattr(torch, kind), device=self.device) for each in values]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if isinstance(values, torch.Tensor):
            return values.to(self.device, getattr(torch, kind))
        return torch.from_numpy(np.require(stacked(values), kind, ["C", "W"])).to(self.device)

    def notes(self) -> dict[str, str]:
        if not self._one_thread:
            return {}
        return {"one thread": "PyTorch's others do not survive a fork; start workers by spawn, or fork before loading"}

    def _release(self) -> None:
        self._network = None
