"""ONNX Runtime with its TensorRT execution provider: engines built behind the scenes on first use, and kept.

Takes the graphs as they are, without our plugins. A first run takes minutes; later ones find the engines in the cache.
Only used when asked for. Not yet run on a GPU.
"""

from typing import TYPE_CHECKING, Any

from img_deploy.files import cache_folder
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.buckets import Range, shape_range
from img_deploy.runtime.backends.onnxruntime.backend import CPU, why_not
from img_deploy.runtime.backends.onnxruntime.gpu import CUDA, MOST_SAMPLES, OrtGpuBackend
from img_deploy.text.vocabulary import MIN_WORD_WIDTH

if TYPE_CHECKING:
    from img_deploy.runtime.bundle import Bundle

TENSORRT = "TensorrtExecutionProvider"


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can."""
    return why_not(CUDA, device, bundle) or why_not(TENSORRT, device, bundle)


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "OrtTensorrtBackend":  # noqa: ARG001
    """Builds or loads the first engine, so that what cannot work fails here. Raises BackendError, BundleError."""
    backend = OrtTensorrtBackend(bundle, threads=threads)
    backend.session(GRAPH_NAMES[0])
    return backend


class OrtTensorrtBackend(OrtGpuBackend):
    """As :class:`OrtGpuBackend`, with TensorRT below it; what TensorRT does not take runs on the CUDA provider."""

    name = "onnxruntime-tensorrt"

    def providers(self, graph: str) -> list[Any]:
        return [(TENSORRT, self.tensorrt_options(graph)), (CUDA, {"use_tf32": "0"}), CPU]

    def tensorrt_options(self, graph: str) -> dict[str, str]:
        """Options of the TensorRT provider for a graph: engine and timing caches, one profile over all sizes."""
        manifest = self._bundle.manifest
        # The hash in the prefix: another export must not find this one's engines.
        digest = manifest.files[manifest.graphs[self.precision][graph]][:12]
        folder = cache_folder("onnxruntime")
        folder.mkdir(parents=True, exist_ok=True)
        limits = {axis: manifest.limits[axis] for axis in ("clips", "words", "chars")}
        profile: dict[str, Range] = {axis: (1, most, most) for axis, most in limits.items()}
        profile["chars"] = (MIN_WORD_WIDTH, limits["chars"], limits["chars"])
        profile["batch"] = (1, 16, MOST_SAMPLES)
        ranges = {tensor.name: shape_range(tensor, profile) for tensor in self._specs[graph].inputs}
        shapes = [",".join(f"{name}:{'x'.join(map(str, each[i]))}" for name, each in ranges.items()) for i in range(3)]
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_engine_cache_prefix": f"{graph}_{digest}",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            "trt_cuda_graph_enable": "1" if self._graphs[graph] else "0",
            "trt_profile_min_shapes": shapes[0],
            "trt_profile_opt_shapes": shapes[1],
            "trt_profile_max_shapes": shapes[2],
        }
