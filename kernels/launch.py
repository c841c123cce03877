"""Host side that the fused blocks over rows share: checks, the choice of a variant, and what tuning measures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.dtypes import ELEMENT_TYPES, PRECISIONS
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, batch_regime, config_for

Shapes = dict[str, tuple[int, ...]]
"""Argument name -> shape, in the order of the op's schema. Names ending in ``mask`` are bool."""

STORAGE_DTYPES = {name: getattr(torch, ELEMENT_TYPES[name].torch) for name in PRECISIONS}
"""Precision -> ``torch.dtype``."""


def check_inputs(op: str, shapes: Mapping[str, tuple[int, ...]], inputs: Sequence[Tensor | None]) -> None:
    """Check an op's tensors, in the order of ``shapes``; the first gives device and storage dtype. None is passed over.

    Args:
        op: for the message.
        shapes: argument name -> shape. ``*mask`` are bool, ``importance`` float32 or the storage dtype, others the
            storage dtype.
        inputs: one tensor (or None) per name.

    Raises:
        ValueError: names the op and the argument, what it got, what it expected, what to do.
    """
    if len(inputs) != len(shapes):
        raise ValueError(f"{op}: got {len(inputs)} tensors, expected {len(shapes)}: {', '.join(shapes)}")
    first = inputs[0]
    assert first is not None
    if first.dtype not in STORAGE_DTYPES.values():
        raise ValueError(f"{op}: {next(iter(shapes))}: got {first.dtype}, expected float32, float16 or bfloat16")
    for (name, shape), tensor in zip(shapes.items(), inputs, strict=True):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{op}: {name}: got shape {list(tensor.shape)}, expected {list(shape)}")
        if tensor.device != first.device:
            raise ValueError(f"{op}: {name}: on {tensor.device}, expected {first.device}; move it there")
        wanted = [torch.bool] if name.endswith("mask") else [first.dtype]
        if name == "importance":
            wanted = [torch.float32, first.dtype]
        if tensor.dtype not in wanted:
            raise ValueError(f"{op}: {name}: got {tensor.dtype}, expected {wanted[0]}; convert it")
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name}: strides {list(tensor.stride())} have gaps; call .contiguous()")


def run_over_rows(
    op: str,
    shapes: Shapes,
    inputs: Sequence[Tensor | None],
    launch: Callable[..., None],
) -> Tensor:
    """The output of an op, like its first input: checked, allocated and launched with the batch's configuration.

    Raises:
        ValueError: as :func:`check_inputs`.
    """
    check_inputs(op, shapes, inputs)
    assert inputs[0] is not None
    out = torch.empty_like(inputs[0])
    if out.numel():
        launch(inputs, out, config_for(op, batch_regime(len(out)), out.dtype, out.device))
    return out


def launch_over_rows(
    kernel: Any, numbers: Sequence[int], inputs: Sequence[Tensor | None], out: Tensor, config: LaunchConfig
) -> None:
    """Launch a kernel whose programs take a sample and ``ROWS`` of its clips, and whose constants are the channels."""
    batch, clips, dim = out.shape
    grid = (batch, -(-clips // config.blocks["ROWS"]))
    kernel[grid](*inputs, *numbers, out, DIM=dim, WIDTH=padded(dim), **config.launch_options())


def padded(size: int) -> int:
    """The power of two, at least 16, that a tile's axis of this size takes: what ``tl.dot`` asks for."""
    return max(16, 1 << (size - 1).bit_length())


def draw_inputs(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: str = "cuda") -> list[Tensor]:
    """Random tensors of these shapes, scaled like activations and weights; masks are all True. For tuning."""
    drawn = []
    for name, shape in shapes.items():
        if name.endswith("mask"):
            drawn.append(torch.ones(shape, dtype=torch.bool, device=device))
        else:
            scale = shape[-1] ** -0.5 if name.endswith("weight") else 1.0
            drawn.append((torch.randn(shape, device=device) * scale).to(dtype))
    return drawn


def calls_of(
    shapes: Callable[[int], Shapes],
    launch: Callable[..., None],
    rows: Sequence[int] = (16, 32, 64),
    chunked: bool = True,
    stages: Sequence[int] = (1,),
    **blocks: Sequence[int],
) -> Iterator[TuningCall]:
    """Tuning calls of a kernel over rows: one sample and 64, in every storage dtype.

    Args:
        shapes: batch -> shapes of the op's inputs, the first also that of its output.
        launch: ``launch(inputs, out, config)``.
        chunked: whether it takes weights ``CHUNK`` columns at a time.
        stages: pipeline depths to try; 2 for a kernel whose loop reads weights.
        rows, blocks: values to try of ``ROWS`` and of the kernel's other block sizes.
    """
    for batch, (name, dtype) in product((1, 64), STORAGE_DTYPES.items()):
        inputs = draw_inputs(shapes(batch), dtype)
        out = torch.empty_like(inputs[0])
        tried = {"ROWS": rows, **blocks}
        if chunked:
            tried["CHUNK"] = (16, 32) if dtype == torch.float32 else (64, 128)
        candidates = tuple(
            LaunchConfig(warps, depth, dict(zip(tried, sizes, strict=True)))
            for warps, depth, *sizes in product((4, 8), stages, *tried.values())
        )
        yield TuningCall(batch_regime(batch), name, partial(launch, inputs, out), candidates)
