"""For tests that launch kernels: under Triton's interpreter (``TRITON_INTERPRET=1``, see ``../test_interpreter.py``) on
a CPU, or as they are where there is a GPU. Elsewhere these files are not collected."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from img_deploy.kernels import checking
from img_deploy.kernels.checking import poisoned_outputs
from img_deploy.kernels.interpreted import interpreting, mend_interpreter

INTERPRETED = interpreting()
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]


if INTERPRETED:
    mend_interpreter()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody has written holds NaN (or -7 in integers), not the zeros it happens to hold."""
    with poisoned_outputs():
        yield


@pytest.fixture
def in_float64() -> Callable[..., object]:
    """``in_float64(reference, *args)``: the reference in float64 throughout, on a CPU, arguments as stored."""
    return checking.in_float64


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
