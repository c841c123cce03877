"""The CUDA C++ recurrence: what nvcc makes of it, and what it computes with a block's threads played by CPU threads."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from img_deploy.kernels.bigru import reference
from img_deploy.kernels.bigru.cuda_recurrence import LANES, SOURCE, compile_cubin, gru_recurrence_cuda

CPU_FORM = Path(__file__).parent / "cuda_on_cpu"
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc (the CUDA toolkit) is not on PATH")


@needs_nvcc
def test_compiles_without_spills(tmp_path: Path) -> None:
    """The source does not compile for some GPU generation, or its weights do not stay in registers there."""
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90, 100)]
    command = ["nvcc", "-c", "-O3", *targets, "-Xptxas", "-v", str(SOURCE), "-o", str(tmp_path / "recurrence.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'", done.stderr)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", done.stderr)]
    assert len(kernels) == len(frames) == len(registers) == 3 * 3 * len(LANES)
    assert {f"gru_{dtype}_{hidden}" for dtype in ("fp32", "fp16", "bf16") for hidden in LANES} == {
        k for k, _ in kernels
    }
    assert set(frames) == {("0", "0", "0")}, dict(zip(kernels, frames, strict=True))
    assert max(registers) <= 255


@needs_nvcc
def test_cubin_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process compiles again, or a failed compilation leaves a file that is taken for machine code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="sm_1"):
        compile_cubin(1)
    assert not list(tmp_path.rglob("*.cubin"))
    code = compile_cubin(80)
    assert code[:4] == b"\x7fELF"
    monkeypatch.setenv("PATH", "")
    assert compile_cubin(80) == code
    with pytest.raises(RuntimeError, match="nvcc"):
        compile_cubin(90)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """``recurrence.cu`` compiled as C++20 over the few CUDA words it uses."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH")
    library = tmp_path_factory.mktemp("cuda_on_cpu") / "recurrence.so"
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-I", str(CPU_FORM)]
    command += [f'-DKERNEL_SOURCE="{SOURCE}"', str(CPU_FORM / "launch.cpp"), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize(("hidden", "stacks", "lengths"), [(16, 2, [9, 0, 1, 4]), (128, 1, [3])])
def test_agrees_with_reference(hidden: int, stacks: int, lengths: list[int], on_cpu: ctypes.CDLL) -> None:
    """A thread takes the wrong unit, column, direction or buffer, or reads a state before it is written."""
    generator = torch.Generator().manual_seed(13)
    batch, length = len(lengths), max(lengths)
    gates = torch.randn(stacks, batch, length, 2, 3 * hidden, generator=generator)
    weight = torch.randn(stacks, 2, 3 * hidden, hidden, generator=generator) * hidden**-0.5
    bias = torch.randn(stacks, 2, 3 * hidden, generator=generator)
    own = torch.tensor(lengths, dtype=torch.int32)
    out = torch.full((stacks, batch, length, 2 * hidden), float("nan"))
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (gates, own, weight, bias)]
    run = getattr(on_cpu, f"run_{hidden}")
    run(*pointers, stacks, batch, length, ctypes.c_void_p(out.data_ptr()))
    identity = torch.eye(6 * hidden, dtype=torch.float64).view(1, 2, 3 * hidden, 6 * hidden).expand(stacks, -1, -1, -1)
    nothing = torch.zeros_like(bias).double()
    flat = gates.flatten(3).double()  # with the identity as input weights, the layer's gates are these
    expected = reference.bigru(flat, own, identity, weight.double(), nothing, bias.double())
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)


def test_refuses_what_it_cannot_run() -> None:
    """A CPU tensor's pointer reaches the GPU, or a missing variant fails inside the driver."""
    lengths = torch.ones(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="CUDA device"):
        gru_recurrence_cuda(torch.zeros(1, 1, 1, 2, 48), lengths, torch.zeros(1, 2, 48, 16), torch.zeros(1, 2, 48))
    with pytest.raises(ValueError, match="24"):
        gru_recurrence_cuda(torch.zeros(1, 1, 1, 2, 72), lengths, torch.zeros(1, 2, 72, 24), torch.zeros(1, 2, 72))
