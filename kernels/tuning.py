"""Launch configurations of the kernels: what ships, how one is looked up, and how a GPU's own are measured.

Each op's ``tuning.json`` holds, per GPU and then per variant of the kernel and storage dtype, one configuration::

    {"default": {"one_row": {"*": {"num_warps": 4, "num_stages": 1, "blocks": {"BLOCK_L": 32}, "origin": "..."}}},
     "sm_86":   {...}, "NVIDIA H200": {...}}

The most specific entry wins: GPU name, then ``sm_<capability>``, then ``default``; within one, the dtype, then ``*``.
``origin`` says where the figures come from; what ships is "default, not measured" until a GPU has measured it.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.dtypes import named

FOLDER = Path(__file__).parent
NOT_MEASURED = "default, not measured"
BATCH_REGIMES = ("small_batch", "large_batch")
HALVES = ("fp16", "bf16")
"""They take the same instructions: what is fastest in the first stands for both."""
LARGE_BATCH = 16
"""Samples from which on a batch is large."""


@dataclass(frozen=True)
class LaunchConfig:
    """How one kernel is compiled: warps per block, pipeline depth and the block sizes it takes as constexprs."""

    num_warps: int
    num_stages: int = 1
    blocks: dict[str, int] = field(default_factory=dict)
    origin: str = NOT_MEASURED

    def launch_options(self) -> dict[str, Any]:
        """Keyword arguments of a Triton launch: ``kernel[grid](..., **config.launch_options())``."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclass(frozen=True)
class TuningCall:
    """One thing to measure: ``run(config)`` launches the kernel once; the fastest of ``candidates`` is kept."""

    variant: str
    dtype: str
    run: Callable[[LaunchConfig], object]
    candidates: tuple[LaunchConfig, ...]


def dtype_name(dtype: Any) -> str:
    """``torch.float16`` -> ``fp16``: the names of dtypes in tuning tables and Triton signatures."""
    return named("torch", str(dtype).removeprefix("torch.")).name


def batch_regime(batch: int) -> str:
    """Variant of the kernels over rows for a batch. ``small_batch``: small blocks of rows, so that one sample spreads
    over many multiprocessors. ``large_batch``: larger ones, which read the weights and recompute less often."""
    return BATCH_REGIMES[batch >= LARGE_BATCH]


def config_of(op: str, variant: str, dtype: str, gpu: str = "", capability: int = 0) -> LaunchConfig:
    """The configuration of one variant of an op's kernel on a GPU.

    Args:
        op: the op's name; variant: a key of its ``tuning.json``; dtype: ``fp32``, ``fp16`` or ``bf16``.
        gpu: name as CUDA gives it; capability: e.g. 90. Without them, the entry of no particular GPU.

    Raises:
        KeyError: no entry fits; names the op, variant and dtype.
    """
    table = _table(op)
    for key in (gpu, f"sm_{capability}", "default"):
        entries = table.get(key, {}).get(variant, {})
        found = entries.get(dtype, entries.get("*"))
        if found is not None:
            return found
    raise KeyError(f"kernels/{op}/tuning.json: no entry for variant {variant!r}, dtype {dtype!r}")


@lru_cache(maxsize=512)
def config_for(op: str, variant: str, dtype: Any, device: Any) -> LaunchConfig:
    """:func:`config_of` for a torch dtype and the device of a tensor (a CPU takes the default, for the interpreter)."""
    if device.type != "cuda":
        return config_of(op, variant, dtype_name(dtype))
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return config_of(op, variant, dtype_name(dtype), torch.cuda.get_device_name(device), 10 * major + minor)


@lru_cache(maxsize=len(OP_NAMES))
def _table(op: str) -> dict[str, dict[str, dict[str, LaunchConfig]]]:
    raw = json.loads((FOLDER / op / "tuning.json").read_text())
    return {
        gpu: {
            variant: {dtype: LaunchConfig(**entry) for dtype, entry in dtypes.items()}
            for variant, dtypes in variants.items()
        }
        for gpu, variants in raw.items()
    }


def tune(op: str, path: Path | None = None) -> dict[str, dict[str, LaunchConfig]]:
    """Measure the candidates of ``kernels/<op>/kernel.py:tuning_calls()`` on this GPU and add the winners to the table.

    All candidates are compiled first, side by side; then each is timed alone, many launches in one CUDA graph; bf16
    takes what is fastest in fp16.

    Args:
        op: the op's name.
        path: table to write; by default the op's own ``tuning.json``.

    Returns:
        variant -> dtype -> configuration, as written under this GPU's compute capability.

    Raises:
        RuntimeError: no CUDA device, or a variant none of whose candidates runs.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("tuning measures on a CUDA device and this machine has none; run it where the GPU is")
    calls = [
        call for call in import_module(f"img_deploy.kernels.{op}.kernel").tuning_calls() if call.dtype != HALVES[1]
    ]
    with compiling_only(ignore_errors=True):
        for call in calls:
            for config in call.candidates:
                call.run(config)
    chosen: dict[str, dict[str, LaunchConfig]] = {}
    for call in calls:
        dtypes = HALVES if call.dtype in HALVES else (call.dtype,)
        chosen.setdefault(call.variant, {}).update(dict.fromkeys(dtypes, _fastest(op, call)))
    major, minor = torch.cuda.get_device_capability()
    _write(path or FOLDER / op / "tuning.json", f"sm_{major}{minor}", chosen)
    _table.cache_clear()
    config_for.cache_clear()
    return chosen


@contextmanager
def compiling_only(ignore_errors: bool = False) -> Iterator[None]:
    """Context in which a launch compiles its kernel, beside the others on all cores, and runs nothing."""
    from triton import AsyncCompileMode
    from triton.runtime.jit import JITFunction

    launch = JITFunction.run

    def compile_alone(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        del warmup
        return launch(self, *args, grid=grid, warmup=True, **kwargs)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        AsyncCompileMode(pool, ignore_errors=ignore_errors),
        mock.patch.object(JITFunction, "run", compile_alone),
    ):
        yield


def _fastest(op: str, call: TuningCall) -> LaunchConfig:
    import torch
    from triton.testing import do_bench_cudagraph

    best, best_ms, failures = None, float("inf"), []
    for config in call.candidates:
        try:
            ms = do_bench_cudagraph(lambda config=config: call.run(config), return_mode="median")
        except Exception as error:  # too much shared memory or too many registers on this card: not a candidate here
            failures.append(f"{config.launch_options()}: {error}")
            continue
        if ms < best_ms:
            best, best_ms = config, ms
    if best is None:
        raise RuntimeError(f"{op} {call.variant} {call.dtype}: no candidate runs; " + "; ".join(failures))
    origin = (
        f"{1e3 * best_ms:.1f} us in {call.dtype} on {torch.cuda.get_device_name()}, fastest of {len(call.candidates)}"
    )
    return LaunchConfig(best.num_warps, best.num_stages, best.blocks, origin)


def _write(path: Path, key: str, chosen: dict[str, dict[str, LaunchConfig]]) -> None:
    table = json.loads(path.read_text()) if path.exists() else {}
    entries = table.setdefault(key, {})
    for variant, dtypes in chosen.items():
        entries.setdefault(variant, {}).update({dtype: asdict(config) for dtype, config in dtypes.items()})
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(partial, path)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure launch configurations on this GPU and store the fastest.")
    parser.add_argument("ops", nargs="*", help=f"ops to tune (all of them without any): {', '.join(OP_NAMES)}")
    ops = parser.parse_args(arguments).ops or OP_NAMES  # type: ignore[arg-type]
    for unknown in set(ops).difference(OP_NAMES):
        parser.error(f"ops: got {unknown!r}, expected some of {', '.join(OP_NAMES)}")
    for op in ops:
        try:
            chosen = tune(op)
        except RuntimeError as error:
            parser.exit(1, f"error: {error}\n")
        for variant, dtypes in chosen.items():
            for dtype, config in dtypes.items():
                print(f"{op:16} {variant:16} {dtype}  {config.launch_options()}  {config.origin}", flush=True)


if __name__ == "__main__":
    main()
