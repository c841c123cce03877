"""The ops as the network calls them: which sizes, what they are given, and the work in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import product
from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.dispatch import OP_NAMES

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Sizes that the op's work depends on beside batch and clips."""

    dim: int = 128
    heads: int = 8
    words: int = 10
    slots: int = 3
    iterations: int = 3


FULL = Sizes()
TINY = Sizes(dim=32, heads=4, words=3, slots=2, iterations=2)
"""For a machine without a GPU, where kernels are interpreted."""

FORMS = {
    "bigru": ("3 stacks", "1 wide stack"),
    "slot_attention": ("all",),
    "attention_block": ("self", "words"),
    "conv_block": ("2 layers", "4 layers"),
    "local_fusion": ("all",),
    "global_fusion": ("all",),
    "query_attention": ("all",),
    "best_spans": ("top 1", "top 5"),
}
"""Op -> the ways that the network calls it."""


@dataclass(frozen=True)
class KernelCase:
    """One op at one size in one storage dtype."""

    op: str
    form: str
    batch: int
    clips: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.op} {self.form}, B={self.batch}, L={self.clips}, {self.dtype}"


def cases(sizes: Sequence[tuple[int, int]], dtypes: Sequence[str]) -> Iterator[KernelCase]:
    """Every op in every form, all of the first dtype and of the first size (batch, clips) before the next."""
    for dtype, (batch, clips), op in product(dtypes, sizes, OP_NAMES):
        for form in FORMS[op]:
            yield KernelCase(op, form, batch, clips, dtype)


def shapes_of(case: KernelCase, sizes: Sizes) -> Shapes:
    """Argument name -> shape, in the order of the op's schema; ``lengths`` is int32, ``*mask`` bool."""
    batch, clips, dim = case.batch, case.clips, sizes.dim
    if case.op == "bigru":
        stacks, width, hidden = (3, dim, dim // 2) if case.form == "3 stacks" else (1, 3 * dim, dim)
        return {
            "x": (stacks, batch, clips, width),
            "lengths": (batch,),
            "ih_weight": (stacks, 2, 3 * hidden, width),
            "hh_weight": (stacks, 2, 3 * hidden, hidden),
            "ih_bias": (stacks, 2, 3 * hidden),
            "hh_bias": (stacks, 2, 3 * hidden),
        }
    if case.op == "best_spans":
        return dict.fromkeys(("start", "end", "mask"), (batch, clips))
    kernel = import_module(f"img_deploy.kernels.{case.op}.kernel")
    if case.op == "slot_attention":
        return dict(kernel._shapes(batch, clips, dim, sizes.slots))
    if case.op == "attention_block":
        return dict(kernel.shapes(batch, clips, sizes.words if case.form == "words" else clips, dim))
    if case.op == "conv_block":
        return dict(kernel.shapes(batch, clips, dim, int(case.form.split()[0]), 7))
    if case.op == "query_attention":
        return dict(kernel.shapes(batch, clips, sizes.words, dim))
    return dict(kernel.shapes(batch, clips, dim))


def arguments(
    case: KernelCase, sizes: Sizes, device: str, generator: torch.Generator, lengths: Sequence[int] | None = None
) -> list[Any]:
    """What the op is called with, drawn as a trained network has it; all of the schema's arguments, in order.

    LayerNorm weights lie near 1, other weights keep the size of what they multiply, importance lies in 0..1.

    Args:
        device: also that of the generator.
        lengths: clips (and words) of each sample that are real; all of them by default. 0 masks a sample fully.
    """
    drawn: list[Any] = []
    absent = _absent(case)
    for name, shape in shapes_of(case, sizes).items():
        if name in absent:
            drawn.append(None)
        elif name == "lengths" or name.endswith("mask"):
            drawn.append(_lengths(name, shape, case, device, lengths))
        else:
            drawn.append(_values(name, shape, DTYPES[case.dtype], device, generator))
    return [*drawn, *_numbers(case, sizes)]


def _lengths(name: str, shape: tuple[int, ...], case: KernelCase, device: str, lengths: Sequence[int] | None) -> Tensor:
    own = torch.tensor(lengths or [case.clips] * case.batch, dtype=torch.int32, device=device)
    if name == "lengths":
        return own
    return torch.arange(shape[1], device=device)[None, :] < own[:, None]  # words: as many as clips, up to all


def _values(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, device=device, generator=generator)
    if name == "importance":
        return torch.sigmoid(values)
    if name.startswith("norm") and name.endswith("weight"):
        return (1 + 0.2 * values).to(dtype)
    scale = 1.0
    if name.endswith("bias"):
        scale = 0.3
    elif "weight" in name:
        scale = shape[-1] ** -0.5
    elif name in ("start", "end"):
        scale = 3.0
    return (values * scale).to(dtype)


def _absent(case: KernelCase) -> tuple[str, ...]:
    """Arguments that this form of the op goes without."""
    if case.op == "attention_block" and case.form == "self":
        return "context", "norm_context_weight", "norm_context_bias"
    return ()


def _numbers(case: KernelCase, sizes: Sizes) -> list[int]:
    """The schema's arguments that are no tensors."""
    if case.op == "attention_block":
        return [sizes.heads]
    if case.op == "slot_attention":
        return [sizes.iterations]
    return [int(case.form.split()[1])] if case.op == "best_spans" else []


def kernel_of(op: str) -> Callable[..., Any]:
    """The op's host function, which launches the Triton kernel whatever device the tensors are on."""
    found: Callable[..., Any] = getattr(import_module(f"img_deploy.kernels.{op}.kernel"), op)
    return found


def reference_of(op: str) -> Callable[..., Any]:
    """The op's plain PyTorch reference."""
    found: Callable[..., Any] = getattr(import_module(f"img_deploy.kernels.{op}.reference"), op)
    return found


def bytes_of(tensors: Any) -> int:
    """Bytes of all tensors in an argument list or an op's result."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(bytes_of(one) for one in tensors if isinstance(one, Tensor))


@lru_cache(maxsize=256)
def flops_of(case: KernelCase, sizes: Sizes) -> int:
    """FLOP of the matrix products and convolutions in the op's reference (a multiply-add is two), counted by PyTorch.

    Slot attention: those of the kernel, which forms no keys and values and so needs fewer. ``best_spans``: the
    products of start and end, once per span that is found.
    """
    if case.op == "slot_attention":
        per_slot = 22 * sizes.dim**2 + 4 * case.clips * sizes.dim
        return 2 * case.batch * sizes.slots * sizes.iterations * per_slot
    if case.op == "best_spans":
        return case.batch * _numbers(case, sizes)[0] * case.clips * (case.clips + 1) // 2
    from torch.utils.flop_counter import FlopCounterMode

    given = arguments(case, sizes, "meta", None, None)  # type: ignore[arg-type]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        reference_of(case.op)(*given)
    return int(counter.get_total_flops())
