"""Compile every kernel that the benchmark launches, on a machine without a GPU, into a folder that travels.

The folder is a Triton cache: Triton finds a kernel there by its source, its launch configuration and the compiler, so
the GPU's machine needs the same Triton for the same version of Python.
"""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from img_deploy.benchmarks.on_gpu.steps import CHECKED, CROWD, OTHER_SIZES, RACED, SINGLE
from img_deploy.files import write_text

if TYPE_CHECKING:
    from img_deploy.model.network import IMGNetwork

CAPABILITY = 90
"""Compute capability of an H100 or H200."""
SIZES = [(size["batch"], size["clips"]) for size in (SINGLE, CROWD)] + list(OTHER_SIZES)
SHAPES = [*CHECKED["cuda"], *RACED["cuda"], *(((clips,) * batch, clips) for batch, clips in SIZES)]
"""(real clips of each sample, clips) of every run of the network in the steps."""
STAMP = "made_by.txt"
INTERMEDIATE = (".ttir", ".ttgir", ".llir", ".ptx", ".source")
"""What the compiler leaves beside a binary, and nobody launches."""


def prepare(folder: Path, tell: Callable[[str], None], precisions: Sequence[str] = ("fp16", "fp32", "bf16")) -> int:
    """Fill the folder. Gives how many kernels it holds. Once in a process, which launches no kernel afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"TRITON_CACHE_DIR": str(folder.resolve()), "TRITON_INTERPRET": "0"}
    with compiling_for_a_gpu():
        for precision in precisions:
            _run_everything(precision, tell)
    for path in folder.glob("*/*"):
        if path.suffix in INTERMEDIATE:
            path.unlink()
    (folder / STAMP).write_text(made_by() + "\n", encoding="utf-8")
    return len(compiled(folder))


def settle(folder: Path) -> str | None:
    """Let Triton find the kernels where the folder is now: it keeps absolute paths. Raises OSError.

    Returns:
        Why this Python will not take them all the same; None where it will.
    """
    for group in folder.glob("*/__grp__*.json"):
        known = json.loads(group.read_text(encoding="utf-8"))
        known["child_paths"] = {name: str(group.resolve().parent / name) for name in known["child_paths"]}
        write_text(group, json.dumps(known))
    stamp = folder / STAMP
    if not stamp.exists():
        return f"{folder}: got no {STAMP}, expected a folder that --prepare filled"
    made = stamp.read_text(encoding="utf-8").strip()
    return None if made == made_by() else f"{folder}: made by {made}; here is {made_by()}: kernels compile anew"


def made_by() -> str:
    """What a prepared folder and the machine that uses it must have in common."""
    from importlib.metadata import version

    return f"Triton {version('triton')}, Python {'.'.join(platform.python_version_tuple()[:2])}, {platform.machine()}"


def compiled(folder: Path) -> list[Path]:
    """Binaries in a folder."""
    return sorted(folder.glob("*/*.cubin"))


def _run_everything(precision: str, tell: Callable[[str], None]) -> None:
    """Every launch of the steps, through the whole network: its values are not computed, its shapes are."""
    from img_deploy.benchmarks.on_gpu.network import (
        FULL,
        GRAPHS,
        Chain,
        Served,
        draw_feeds,
        on_device,
        random_network,
    )
    from img_deploy.benchmarks.on_gpu.op_calls import OpCall
    from img_deploy.runtime.backends.triton.packed_network import PackedNetwork

    packed = PackedNetwork(random_network(FULL), precision, "cpu")
    chain, served = Chain(packed.network, packed), Served(random_network(FULL), precision, "cpu")
    for lengths, clips in SHAPES:
        tell(f"{precision}: {len(lengths)} samples of {clips} clips")
        feeds = draw_feeds(FULL, lengths, clips)
        inputs = on_device(feeds, precision, "cpu")
        logits = [one.to(packed.storage) for one in chain(inputs)[:2]]
        for count in (1, 5):
            OpCall("best_spans", (*logits, inputs["clip_mask"], count)).kernel()
        served(feeds, GRAPHS)
    if precision == "fp32":
        _train(packed.network)


def _train(network: "IMGNetwork") -> None:
    """Forward and backward of every layer that training launches kernels for."""
    import torch

    from img_deploy.kernels.bigru.gradient import by_kernels
    from img_deploy.model.layers import BiGRU

    for layer in network.modules():
        if isinstance(layer, BiGRU):
            stacks, width = layer.weight_ih.shape[0], layer.weight_ih.shape[-1]
            x = torch.zeros(1, 1, stacks, width, requires_grad=True)
            by_kernels(x, torch.ones(1), *layer.parameters()).sum().backward()


@contextmanager
def compiling_for_a_gpu() -> Iterator[None]:
    """Context in which ops launch kernels on CPU tensors, and a launch compiles for the GPU and goes no further."""
    from triton.runtime import driver

    from img_deploy.kernels import tuning
    from img_deploy.kernels.interpreted import kernels_on_cpu

    with (
        mock.patch.object(driver, "_active", _absent_gpu()),
        mock.patch.object(tuning, "config_of", partial(tuning.config_of, capability=CAPABILITY)),
        tuning.compiling_only(),
        kernels_on_cpu(),
    ):
        yield


def _absent_gpu() -> Any:
    """A driver that tells which GPU to compile for, and has none."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class AbsentGpu(DriverBase):
        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", CAPABILITY, 32)

        def get_active_torch_device(self) -> Any:
            return None

        def get_benchmarker(self) -> Any:
            return None

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, _device: int) -> int:
            return 0

    return AbsentGpu()
