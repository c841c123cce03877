"""The GRU's loop over time in CUDA C++ (``recurrence.cu``): compiled by nvcc, launched through the CUDA driver.

Not yet run on a GPU. No op calls it: it stands beside the Triton kernel to be measured against it, and either goes
where the other wins everywhere.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.tuning import dtype_name

SOURCE = Path(__file__).parent / "recurrence.cu"
LANES = {16: 4, 32: 4, 64: 4, 128: 2}
"""Hidden size -> threads per hidden unit, as in the last lines of ``recurrence.cu``."""
COMPILE_OPTIONS = ("-O3", "-std=c++17")


def gru_recurrence_cuda(gates: Tensor, lengths: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """Same as :func:`img_deploy.kernels.bigru.kernel.gru_recurrence`, on CUDA tensors of hidden size 16, 32, 64 or 128.

    Raises:
        ValueError: another hidden size or device, or types that differ.
        RuntimeError: no nvcc, it failed, or the CUDA driver did; carries what it said.
    """
    stacks, batch, length, _, _ = gates.shape
    hidden = weight_hh.shape[-1]
    if hidden not in LANES:
        raise ValueError(f"gru_recurrence_cuda: got hidden size {hidden}, expected one of {sorted(LANES)}")
    if gates.device.type != "cuda":
        raise ValueError(f"gru_recurrence_cuda: gates on {gates.device}, expected a CUDA device")
    inputs = (gates.contiguous(), lengths.to(torch.int32).contiguous(), weight_hh.contiguous(), bias_hh.contiguous())
    for name, tensor in zip(("gates", "weight_hh", "bias_hh"), (inputs[0], *inputs[2:]), strict=True):
        if tensor.dtype != gates.dtype or tensor.device != gates.device:
            raise ValueError(f"gru_recurrence_cuda: {name} is {tensor.dtype} on {tensor.device}, gates {gates.dtype}")
    out = torch.empty((stacks, batch, length, 2 * hidden), dtype=gates.dtype, device=gates.device)
    if out.numel() == 0:
        return out
    with torch.cuda.device(gates.device):
        function = _function(f"gru_{dtype_name(gates.dtype)}_{hidden}", gates.device.index or 0)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in inputs]
        values = [*pointers, ctypes.c_int(batch), ctypes.c_int(length), ctypes.c_void_p(out.data_ptr())]
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid, block = (batch, 2 * stacks, 1), (hidden * LANES[hidden], 1, 1)
        _check(_driver().cuLaunchKernel(function, *grid, *block, 0, stream, arguments, None), "cuLaunchKernel")
    return out


def compile_cubin(capability: int) -> bytes:
    """Machine code of ``recurrence.cu`` for a compute capability (e.g. 90), from a cache by content or from nvcc.

    Raises:
        RuntimeError: nvcc is missing or fails; carries what it printed.
    """
    key = hashlib.sha256(SOURCE.read_bytes() + repr((capability, COMPILE_OPTIONS)).encode()).hexdigest()[:24]
    cached = _cache_folder() / f"recurrence_sm{capability}_{key}.cubin"
    if cached.exists():
        return cached.read_bytes()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc: not on PATH; install the CUDA toolkit, or use the Triton kernel, which needs none")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
        partial = Path(folder) / "recurrence.cubin"
        command = [nvcc, "-cubin", f"-arch=sm_{capability}", *COMPILE_OPTIONS, str(SOURCE), "-o", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{SOURCE.name}: nvcc failed for sm_{capability}:\n{done.stderr.strip()}")
        os.replace(partial, cached)
    return cached.read_bytes()


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "img_deploy"


@lru_cache(maxsize=1)
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


@lru_cache(maxsize=64)
def _function(name: str, device: int) -> ctypes.c_void_p:
    """A kernel of the module loaded into the device's primary context, which PyTorch has made current."""
    major, minor = torch.cuda.get_device_capability(device)
    torch.cuda.synchronize(device)  # makes sure that the context exists
    module = _module(device, 10 * major + minor)
    function = ctypes.c_void_p()
    _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), f"cuModuleGetFunction {name}")
    return function


@lru_cache(maxsize=16)
def _module(_device: int, capability: int) -> ctypes.c_void_p:
    module = ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), compile_cubin(capability)), "cuModuleLoadData")
    return module


def _check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{what}: CUDA driver error {code}: {(text.value or b'unknown').decode()}")
