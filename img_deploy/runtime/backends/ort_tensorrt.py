"""ONNX Runtime with its TensorRT execution provider: engines built behind the scenes on first use, and kept.

Takes the graphs as they are, without our plugins. A first run takes minutes; later ones find the engines in the cache.
Only used when asked for. Not yet run on a GPU.
"""

import os
from pathlib import Path
from typing import Any

from img_deploy.hardware import cuda_devices
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends import ort
from img_deploy.runtime.backends.ort_gpu import CUDA, MOST_SAMPLES, OrtGpuBackend
from img_deploy.runtime.backends.trt_shapes import shape_range
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.engine_files import Range
from img_deploy.text.vocabulary import MIN_WORD_WIDTH

TENSORRT = "TensorrtExecutionProvider"


def unavailable(device: str, bundle: Bundle | None) -> str | None:
    """Why it cannot run; None if it can."""
    if device != "cuda" or not cuda_devices():
        return "no NVIDIA GPU"
    if why := ort.unavailable("cuda", bundle):
        return why
    import onnxruntime

    if TENSORRT not in onnxruntime.get_available_providers():
        return f"this onnxruntime {onnxruntime.__version__} has no {TENSORRT}"
    return None


def open_backend(device: str, bundle: Bundle, threads: int | None) -> "OrtTensorrtBackend":  # noqa: ARG001
    """Builds or loads the first engine, so that what cannot work fails here. Raises BackendError, BundleError."""
    backend = OrtTensorrtBackend(bundle, threads=threads)
    backend.session(GRAPH_NAMES[0])
    return backend


def cache_folder() -> Path:
    """Where engines and timings are kept: ``$XDG_CACHE_HOME/img-deploy/onnxruntime``."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "img-deploy" / "onnxruntime"


class OrtTensorrtBackend(OrtGpuBackend):
    """As :class:`OrtGpuBackend`, with TensorRT below it; what TensorRT does not take runs on the CUDA provider."""

    name = "onnxruntime-tensorrt"

    def providers(self, graph: str) -> list[Any]:
        cuda = (CUDA, {"use_tf32": "0"})
        return [(TENSORRT, self.tensorrt_options(graph)), cuda, "CPUExecutionProvider"]

    def tensorrt_options(self, graph: str) -> dict[str, str]:
        """Options of the TensorRT provider for a graph: engine and timing caches, one profile over all sizes."""
        manifest = self._bundle.manifest
        # The hash in the prefix: another export must not find this one's engines.
        digest = manifest.files[manifest.graphs[self.precision][graph]][:12]
        cache_folder().mkdir(parents=True, exist_ok=True)
        folder = str(cache_folder())
        limits = {axis: manifest.limits[axis] for axis in ("clips", "words", "chars")}
        profile: dict[str, Range] = {axis: (1, most, most) for axis, most in limits.items()}
        profile["chars"] = (MIN_WORD_WIDTH, limits["chars"], limits["chars"])
        profile["batch"] = (1, 16, MOST_SAMPLES)
        ranges = {tensor.name: shape_range(tensor, profile) for tensor in self._specs[graph].inputs}
        shapes = [",".join(f"{name}:{'x'.join(map(str, each[i]))}" for name, each in ranges.items()) for i in range(3)]
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_engine_cache_prefix": f"{graph}_{digest}",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
            "trt_cuda_graph_enable": "1" if self._graphs[graph] else "0",
            "trt_profile_min_shapes": shapes[0],
            "trt_profile_opt_shapes": shapes[1],
            "trt_profile_max_shapes": shapes[2],
        }
