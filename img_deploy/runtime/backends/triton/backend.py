"""PyTorch over the Triton kernels, replayed as CUDA graphs.

Requests are padded to a bucket (:mod:`~img_deploy.runtime.backends.buckets`); a bucket's first request captures its
graph, later ones replay it. Runs that are asked for from different threads overlap: encoding videos, encoding queries
and grounding have streams of their own, two each.
"""

import gc
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

import numpy as np

from img_deploy.errors import BackendError, ImgDeployError, one_line
from img_deploy.hardware import why_no_gpu
from img_deploy.kernels.dtypes import PRECISIONS
from img_deploy.model.graphs import PAIR, GraphSpec, graph_specs, pair_spec
from img_deploy.runtime.backends.buckets import Bucket, Ladders, shape_of
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.graph_cache import GraphCache
from img_deploy.runtime.backends.lifetime import NativeBackend
from img_deploy.runtime.backends.padded import run_padded
from img_deploy.runtime.backends.protocol import Feeds, Outputs, on_host
from img_deploy.runtime.backends.torch.backend import full_float32, network_from_bundle, why_no_weights
from img_deploy.runtime.backends.triton.batch_limit import BatchLimit
from img_deploy.runtime.backends.triton.run_outputs import run_spec

if TYPE_CHECKING:
    from img_deploy.runtime.backends.triton.captured_run import StaticRun
    from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
    from img_deploy.runtime.bundle import Bundle

LEAST_CAPABILITY = (8, 0)
"""Compute capability that the kernels are compiled and checked for at least."""
GRAPHS_KEPT = 24
"""Captured graphs of one stream; each holds its inputs and outputs on the host and on the GPU."""
KINDS = {
    "video_encoder": "video",
    "query_encoder": "query",
    **dict.fromkeys(("grounder", "visual_grounder", PAIR), "pairs"),
}
"""Graph -> kind of work. Work of different kinds overlaps."""
STREAMS = 2
"""Streams of a kind, each with graphs and memory of its own: the copies of a run on one of them overlap with the graph
of a run on the other, and so does what the host does before and after."""
SMALLEST = {"batch": 1, "clips": 1, "words": 1, "chars": 4}

MakeRun = Callable[[GraphSpec, Bucket], "StaticRun"]


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can. torch is imported only where there is a GPU to ask it about."""
    del device  # always cuda
    if why := why_no_gpu(through_torch=False):
        return why
    if find_spec("triton") is None:
        return "triton is not installed (pip install 'img-deploy[gpu]')"
    if bundle is not None and bundle.manifest.precision not in PRECISIONS:
        return f"the kernels compute in {', '.join(PRECISIONS)}, not in {bundle.manifest.precision}"
    if why := why_no_weights(bundle) or why_no_gpu():
        return why
    import torch

    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < LEAST_CAPABILITY:
        return f"the GPU has compute capability {major}.{minor}, the kernels need 8.0"
    return None


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "TritonBackend":
    """Compiles the kernels and runs each graph once, so that what cannot work fails here.

    ``threads`` holds for all of PyTorch in this process, and so does full float32 precision.

    Raises:
        BackendError: a kernel does not compile or run here. BundleError: the weights do not fit the bundle.
    """
    import torch

    from img_deploy.runtime.backends.triton.captured_run import CapturedRun, CaptureStream
    from img_deploy.runtime.backends.triton.packed_network import PackedNetwork

    if threads is not None:
        torch.set_num_threads(threads)
    full_float32()
    packed = PackedNetwork(network_from_bundle(bundle), bundle.manifest.precision, device)

    def on_new_stream() -> MakeRun:
        stream = CaptureStream()
        return lambda spec, bucket: CapturedRun(packed, spec, bucket, stream)

    backend = TritonBackend(
        packed, cast("dict[str, int]", bundle.manifest.limits), on_new_stream, torch.cuda.empty_cache
    )
    backend.run_smallest()
    return backend


class StreamRuns:
    """Runs that follow each other on one stream: by bucket, and how many samples fit the memory at once."""

    def __init__(
        self, make_run: MakeRun, specs: dict[str, GraphSpec], ladders: Ladders, free: Callable[[], None]
    ) -> None:
        self._specs, self._ladders, self._free = specs, ladders, free
        self._runs: GraphCache[Bucket, StaticRun] = GraphCache(
            lambda bucket: make_run(specs[bucket.graph], bucket), GRAPHS_KEPT, before=lambda run: run.wait()
        )
        self._limit = BatchLimit(ladders.most("batch"), partial(ladders.below, "batch"), self.clear)

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        """Outputs of a batch of any size. For one thread at a time."""
        return run_padded(self._specs[graph], self._ladders, feeds, self._runs.get, self._limit.in_parts)

    def clear(self) -> None:
        """Let go of the captured graphs, and give their memory back to the device."""
        self._runs.clear()
        with capturing:
            gc.collect()
            self._free()


class FreeStreams:
    """The streams of one kind of work that nobody uses. The one given back last is taken first."""

    def __init__(self, streams: Iterable[StreamRuns]) -> None:
        self.streams = list(streams)
        self._free: SimpleQueue[None] = SimpleQueue()  # one for each of them: a taker waits for it
        for _ in self.streams:
            self._free.put(None)

    def take(self) -> StreamRuns:
        """One of them, once there is one."""
        self._free.get()
        return self.streams.pop()

    def give(self, stream: StreamRuns) -> None:
        self.streams.append(stream)
        self._free.put(None)


class TritonBackend(NativeBackend):
    """The deployed modules of a bundle through the kernels, at the sizes of ``buckets``.

    Args:
        packed: the network, in the precision that it stores weights and activations in.
        limits: longest ``clips``, ``words`` and ``chars``.
        on_new_stream: called once for each stream; gives what makes a run at a bucket on it.
        free: gives memory that is not in use back to the device.
    """

    name = "triton"
    has_pair = True

    def __init__(
        self,
        packed: "PackedNetwork",
        limits: dict[str, int],
        on_new_stream: Callable[[], MakeRun],
        free: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.device, self.precision = packed.device.type, packed.precision
        specs = {**graph_specs(packed.network.config), PAIR: pair_spec(packed.network.config)}
        self._specs = {name: run_spec(spec) for name, spec in specs.items()}
        ladders = Ladders.up_to(limits)
        self._streams = {
            kind: FreeStreams(StreamRuns(on_new_stream(), self._specs, ladders, free) for _ in range(STREAMS))
            for kind in dict.fromkeys(KINDS.values())
        }

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        self.check_open()
        free = self._streams[KINDS[graph]]
        stream = free.take()
        try:
            self.check_open()
            return stream.run(graph, feeds)
        except ImgDeployError:
            raise
        except Exception as error:  # the compiler's errors and CUDA's have no common class
            raise BackendError(f"backend triton: {graph} failed ({one_line(error, 200)})") from None
        finally:
            free.give(stream)

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
                if not np.isfinite(on_host(values)).all():
                    raise BackendError(f"backend triton: {graph} gives no number for {name} of the smallest sample")

    def _release(self) -> None:
        for free in self._streams.values():
            streams = [free.take() for _ in range(STREAMS)]  # none of them runs then
            for stream in streams:
                stream.clear()
                free.give(stream)
