"""One CUDA stream with its memory and graphs, by way of PyTorch; used where a library wants raw addresses.

Not yet run on a GPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from img_deploy.runtime.backends.cuda import capturing

if TYPE_CHECKING:
    from torch import Tensor


class CudaStream:
    """A stream of its own. Not for two threads at once."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._stream = torch.cuda.Stream()

    @property
    def handle(self) -> int:
        """``cudaStream_t`` as a number."""
        handle: int = self._stream.cuda_stream
        return handle

    def device_memory(self, size: int) -> "Tensor":
        """``size`` bytes on the GPU, aligned to 256 at least: uint8 [size]."""
        return self._torch.empty(size, dtype=self._torch.uint8, device="cuda")

    def host_memory(self, size: int) -> "Tensor":
        """``size`` bytes of pinned memory: uint8 [size]. Copies to and from it do not hold the processor up."""
        return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)

    def current(self) -> AbstractContextManager[Any]:
        """Context in which PyTorch's work goes to the stream."""
        return self._torch.cuda.stream(self._stream)  # type: ignore[no-any-return]

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What ``launch`` puts on the stream, as one CUDA graph to be replayed on it.

        Raises:
            RuntimeError: something in it cannot be captured.
        """
        graph = self._torch.cuda.CUDAGraph()
        # Other threads go on with work of their own while this one captures.
        captures = self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with capturing, captures:
            launch()

        def replay() -> None:
            with self.current():
                graph.replay()

        return replay

    def wait(self) -> None:
        """Until everything on the stream is done. Raises RuntimeError where it failed."""
        self._stream.synchronize()
