"""PyTorch over the Triton kernels, replayed as CUDA graphs. Not yet run on a GPU.

Requests are padded to a bucket (:mod:`buckets`); a bucket's first request captures its graph, later ones replay it.
Encoding videos, encoding queries and grounding have streams of their own, so they overlap when they are asked for from
different threads.
"""

import gc
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.errors import BackendError, ImgDeployError, one_line
from img_deploy.hardware import cuda_devices
from img_deploy.model.graphs import GraphSpec, graph_specs
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.backends.batch_limit import BatchLimit, OutOfMemory
from img_deploy.runtime.backends.buckets import Bucket, Ladders, shape_of, sizes_of
from img_deploy.runtime.backends.graph_cache import GraphCache

if TYPE_CHECKING:
    from img_deploy.runtime.backends.packed_network import PackedNetwork
    from img_deploy.runtime.backends.static_buffers import StaticRun
    from img_deploy.runtime.bundle import Bundle  # not at run time: what times kernels needs no pydantic

LEAST_CAPABILITY = (8, 0)
"""Compute capability that the kernels are compiled and checked for at least."""
PRECISIONS = ("fp32", "fp16", "bf16")
GRAPHS_KEPT = 24
"""Captured graphs of one lane; each holds its inputs and outputs on the host and on the GPU."""
LANES = {"video_encoder": "video", "query_encoder": "query", "grounder": "pairs", "visual_grounder": "pairs"}
"""Graph -> lane. The graphs of one lane follow each other; lanes overlap."""
SMALLEST = {"batch": 1, "clips": 1, "words": 1, "chars": 4}

MakeRun = Callable[[GraphSpec, Bucket], "StaticRun"]


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can. torch is imported only where there is a GPU to ask it about."""
    del device  # always cuda
    if not cuda_devices():
        return "no NVIDIA GPU"
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed (pip install 'img-deploy[gpu]')"
    if bundle is not None:
        from img_deploy.runtime.bundle import WEIGHTS

        if WEIGHTS not in bundle.manifest.files:
            return f"the bundle has no {WEIGHTS}"
        if bundle.manifest.precision not in PRECISIONS:
            return f"the kernels compute in {', '.join(PRECISIONS)}, not in {bundle.manifest.precision}"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use the GPU"
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, the kernels need 8.0"
    return None


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "TritonBackend":
    """Compiles the kernels and runs each graph once, so that what cannot work fails here.

    ``threads`` holds for all of PyTorch in this process, and so does full float32 precision.

    Raises:
        BackendError: a kernel does not compile or run here. BundleError: the weights do not fit the bundle.
    """
    import torch

    from img_deploy.runtime.backends.cuda_capture import CapturedRun, Place
    from img_deploy.runtime.backends.packed_network import PackedNetwork
    from img_deploy.runtime.backends.torch_eager import network_from_bundle

    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    packed = PackedNetwork(network_from_bundle(bundle), bundle.manifest.precision, device)

    def lane() -> MakeRun:
        place = Place()
        return lambda spec, bucket: CapturedRun(packed, spec, bucket, place)

    backend = TritonBackend(packed, bundle.manifest.precision, bundle.manifest.limits, lane, torch.cuda.empty_cache)
    backend.run_smallest()
    return backend


class Lane:
    """Runs that follow each other: their graphs by bucket, and how many samples fit the memory at once."""

    def __init__(self, make_run: MakeRun, specs: dict[str, GraphSpec], ladders: Ladders, free: Callable[[], None]):
        self.lock = Lock()
        self._specs, self._ladders = specs, ladders
        self._runs: GraphCache[Any, Any] = GraphCache(lambda bucket: make_run(specs[bucket.graph], bucket), GRAPHS_KEPT)
        self._limit = BatchLimit(ladders.most("batch"), partial(ladders.below, "batch"), self.clear)
        self._free = free

    def run(self, graph: str, feeds: Feeds, sizes: dict[str, int]) -> Outputs:
        """Outputs of a batch of any size, in as many runs as it takes. The caller holds ``lock``."""
        from img_deploy.runtime.backends.static_buffers import join

        def part(rows: slice) -> Outputs:
            own = {**sizes, "batch": rows.stop - rows.start}
            return self._runs.get(self._ladders.bucket(graph, own))(feeds, rows, own)

        return join(self._specs[graph], self._limit.in_parts(sizes["batch"], part, graph))

    def clear(self) -> None:
        """Let go of the captured graphs, and give their memory back to the device."""
        self._runs.clear()
        gc.collect()
        self._free()


class TritonBackend:
    """The deployed modules of a bundle through the kernels, at the sizes of :mod:`buckets`.

    Args:
        packed: the network.
        precision: what it stores weights and activations in.
        limits: longest ``clips``, ``words`` and ``chars``.
        lane: called once for each lane; gives what makes a run at a bucket in that lane.
        free: gives memory that is not in use back to the device.
    """

    name = "triton"
    overlaps = True
    """Runs of different graphs from different threads go on at the same time."""

    def __init__(
        self,
        packed: "PackedNetwork",
        precision: str,
        limits: dict[str, int],
        lane: Callable[[], MakeRun],
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.device, self.precision = packed.device.type, precision
        self._specs = graph_specs(packed.network.config)
        self._ladders = Ladders.up_to(limits)
        self._lanes = {name: Lane(lane(), self._specs, self._ladders, free) for name in dict.fromkeys(LANES.values())}
        self._closed = False

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        sizes = sizes_of(self._specs[graph], feeds)
        self._ladders.bucket(graph, {**sizes, "batch": min(sizes["batch"], 1)})  # refuses what is too long, or nothing
        lane = self._lanes[LANES[graph]]
        with lane.lock:
            if self._closed:
                raise BackendError("backend triton: was closed; load the bundle again")
            try:
                return lane.run(graph, feeds, sizes)
            except (ImgDeployError, OutOfMemory):
                raise
            except Exception as error:  # the compiler's errors and CUDA's have no common class
                reason = one_line(error, 200)
                raise BackendError(f"backend triton: {graph} failed ({reason})") from None

    def run_smallest(self) -> None:
        """Run each graph on one sample of one clip and one word. Raises BackendError: it fails, or gives no number."""
        for graph, spec in self._specs.items():
            feeds = {
                tensor.name: np.ones(
                    shape_of(tensor, SMALLEST), np.float32 if tensor.dtype == "float" else np.dtype(tensor.dtype)
                )
                for tensor in spec.inputs
            }
            for name, values in self.run(graph, feeds).items():
                if not np.isfinite(values).all():
                    raise BackendError(f"backend triton: {graph} gives no number for {name} of the smallest sample")

    def close(self) -> None:
        self._closed = True
        for lane in self._lanes.values():
            with lane.lock:
                lane.clear()
