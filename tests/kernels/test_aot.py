"""Every kernel compiles for six GPU generations on any machine, and stays inside registers and shared memory there."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from img_deploy.kernels import aot
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.tuning import config_of

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install --no-deps triton==3.6.0)"
)

MOST_BARRIERS = {
    ("bigru", "batch_tile"): 4,  # a turn of its loop is four steps
    ("bigru", "one_row"): 2,
    ("bigru", "backward"): 14,
    ("conv_block", "small_batch"): 18,
    ("slot_attention", "rows"): 18,
    ("slot_attention", "one_slot"): 43,
}
"""(op, variant) of the kernels whose steps or layers wait for each other -> barriers in their code, on any GPU."""


@needs_triton
def test_gpus_of_one_kind_are_given_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured for a GPU is not what Triton compiles for it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # another checkout's code names its own files
    case = aot.cases("best_spans")[0]
    for capability, written_for in aot.WRITTEN_FOR.items():
        own, shared = (aot.compile_case(case, "fp16", each).asm["ptx"] for each in (capability, written_for))
        assert re.sub(r"sm_\d+", "", own) == re.sub(r"sm_\d+", "", shared)


@needs_triton
@pytest.mark.parametrize("op", OP_NAMES)
def test_resources_are_bounded(op: str) -> None:
    """A chosen configuration spills, does not fit a block on some GPU, waits more often than it did, or needs scratch
    that a plugin cannot have."""
    problems, count = [], 0
    for used in aot.measure([op]):
        count += 1
        if used.spill_bytes:
            problems.append(f"spills: {aot.row(used)}")
        if not 0 < used.registers <= 255:
            problems.append(f"registers: {aot.row(used)}")
        if used.shared_bytes > aot.SHARED_LIMIT[used.capability]:
            problems.append(f"shared memory: {aot.row(used)}")
        if used.barriers > MOST_BARRIERS.get((op, used.variant.rstrip("_0123456789")), used.barriers):
            problems.append(f"barriers: {aot.row(used)}")
        if used.scratch_bytes:
            problems.append(f"scratch: {aot.row(used)}")
    assert not problems, "\n".join(problems)
    assert count == sum(len(case.dtypes) for case in aot.cases(op)) * len(aot.CAPABILITIES) > 0


@needs_triton
@pytest.mark.parametrize("op", OP_NAMES)
def test_sizes_are_not_compiled_in(op: str) -> None:
    """A batch or a length of 1, or a multiple of 16, compiles anew for seconds, under a lock, while others wait."""
    for case in aot.cases(op):
        numbers = [each for each in case.kernel.params if not each.is_constexpr and not each.name.endswith("_ptr")]
        assert numbers
        assert all(each.do_not_specialize for each in numbers), f"{case.variant}: {[each.name for each in numbers]}"


@needs_triton
@pytest.mark.parametrize("op", OP_NAMES)
def test_arguments_fit_a_plugin(op: str) -> None:
    """Arguments are not input pointers, int32 scalars, output pointers, constants: the order a TensorRT plugin has."""
    for case in aot.cases(op):
        kinds = [
            "constant" if kind == "constexpr" else "pointer" if kind.startswith("*") else "scalar"
            for name, kind in case.signature("fp16").items()
            if not (kind == "constexpr" and name.endswith("_ptr"))  # a tensor this case goes without
        ]
        runs = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
        assert runs == ["pointer", "scalar", "pointer", "constant"], f"{case.variant}: {runs}"


def test_packages_import_without_triton() -> None:
    """An op's package imports Triton at its top level: a machine without it could not even run the references."""
    imports = "; ".join(f"import img_deploy.kernels.{name}" for name in (*OP_NAMES, "aot", "tuning"))
    command = [sys.executable, "-c", f"import sys; sys.modules['triton'] = None; {imports}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_triton
@pytest.mark.parametrize("op", OP_NAMES)
def test_defaults_exist(op: str) -> None:
    """A GPU that nobody has measured finds no launch configuration for some variant or dtype."""
    for case in aot.cases(op):
        for dtype in case.dtypes:
            assert config_of(op, case.variant, dtype, "GPU of tomorrow", 130).num_warps in (1, 2, 4, 8, 16)
