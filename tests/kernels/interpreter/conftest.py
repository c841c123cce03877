"""For tests that launch kernels: under Triton's interpreter (``TRITON_INTERPRET=1``, see ``../test_interpreter.py``) on
a CPU, or as they are where there is a GPU. Elsewhere these files are not collected."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def accept_scalars_as_loop_bounds() -> None:
    """Triton 3.6 interprets a loop bound by ``int(array)`` of shape [1], which NumPy 2.4 no longer converts."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: object) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patched


def compute_in_bfloat16() -> None:
    """Triton 3.6 keeps bfloat16 as uint16, multiplies tiles of it as those integers, and cuts digits off where a GPU
    rounds to nearest even."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    create_dot, cast = builder.create_dot, builder.cast_impl

    def widened(handle: interpreter.TensorHandle) -> interpreter.TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: object, a: object, b: object, *rest: object) -> object:
        return create_dot(self, widened(a), widened(b), *rest)

    def rounding_cast(self: object, source: interpreter.TensorHandle, target: tl.dtype) -> object:
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = np.where(np.isnan(source.data), 0x7FFF, rounded).astype(np.uint16)
        return interpreter.TensorHandle(rounded.reshape(source.data.shape), tl.bfloat16)

    builder.create_dot, builder.cast_impl = dot, rounding_cast


if INTERPRETED:
    accept_scalars_as_loop_bounds()
    compute_in_bfloat16()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody has written holds NaN (or -7 in integers), not the zeros it happens to hold."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fill(*args: object, **kwargs: object) -> Tensor:
            tensor = allocate(*args, **kwargs)
            if tensor.dtype == torch.bool:
                return tensor.fill_(True)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else -7)

        return fill

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """``in_float64(reference, *args)``: the reference in float64 throughout, on a CPU, arguments as stored.

    The references call ``.float()`` where a kernel computes in float32 whatever the storage; on float64 values it
    would round there, so for the length of the call it returns float64 unchanged.
    """

    def run(reference: Callable[..., object], *args: object) -> object:
        single = Tensor.float
        wide = [arg.cpu().double() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
        wide = [arg.cpu() if isinstance(arg, Tensor) else arg for arg in wide]
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "float", lambda self: self if self.dtype == torch.float64 else single(self))
            return reference(*wide)

    return run


@pytest.fixture
def draw(device: torch.device) -> Callable[..., Tensor]:
    """``draw(*shape, dtype=..., scale=1.0)``: standard normal values rounded to the storage dtype, same every run."""
    generator = torch.Generator().manual_seed(2508)

    def normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype).to(device)

    return normal


@pytest.fixture
def ragged_mask(device: torch.device) -> Callable[..., Tensor]:
    """``ragged_mask([3, 0, 5], 7)``: [B, L] bool, True below each row's length; length 0 is a fully masked row."""

    def mask(lengths: list[int], length: int) -> Tensor:
        return (torch.arange(length)[None, :] < torch.tensor(lengths)[:, None]).to(device)

    return mask


@pytest.fixture
def draw_inputs(draw: Callable[..., Tensor], ragged_mask: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """``draw_inputs(shapes, dtype, lengths)``: an op's tensors by name, as a trained network has them.

    LayerNorm weights near 1, other weights such that a product keeps its input's size, ``importance`` in 0..1 and
    float32. ``lengths`` of the masks: one list for all, or mask name -> list.
    """

    def inputs(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, lengths: object) -> list[Tensor]:
        drawn = []
        for name, shape in shapes.items():
            if name.endswith("mask"):
                drawn.append(ragged_mask(lengths[name] if isinstance(lengths, dict) else lengths, shape[1]))
            elif name == "importance":
                drawn.append(torch.sigmoid(draw(*shape, dtype=torch.float32)))
            elif name.startswith("norm") and name.endswith("weight"):
                drawn.append((1 + draw(*shape, dtype=torch.float32, scale=0.2)).to(dtype))
            else:
                scale = shape[-1] ** -0.5 if name.endswith("weight") else 0.3 if name.endswith("bias") else 1.0
                drawn.append(draw(*shape, dtype=dtype, scale=scale))
        return drawn

    return inputs


@pytest.fixture
def check_close() -> Callable[..., None]:
    """``check_close(got, expected, tolerance, what)``; NaN anywhere fails, and the message gives the worst element."""

    def check(got: Tensor, expected: Tensor, tolerance: object, what: str = "") -> None:
        assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        wide = got.detach().cpu().double()
        assert not wide.isnan().any(), f"{what}: {int(wide.isnan().sum())} elements are NaN (never written, or 0/0)"
        excess = (wide - expected).abs() - tolerance.relative * expected.abs()  # type: ignore[attr-defined]
        worst = float(excess.max()) if excess.numel() else 0.0
        assert worst <= tolerance.absolute, f"{what}: off by {worst:.3e}, allowed {tolerance.absolute:.1e}"  # type: ignore[attr-defined]

    return check
