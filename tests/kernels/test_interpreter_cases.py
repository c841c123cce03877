"""Which sizes and types the interpreter's tests try: an op of which they leave one out is not known to work there."""

from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

LENGTHS = {1, 2, 3, 7, 16, 31, 64, 127, 128}
DTYPES = {"fp32", "fp16", "bf16"}
DIMS = {32, 128}
HALF = {"fp16", "bf16"}
SLOTS = {1, 2, 3, 4, 5}


def cases_of(op: str) -> ModuleType:
    """The test file of an op, as a module; nothing in it is run."""
    path = Path(__file__).parent / "interpreter" / f"test_{op}.py"
    spec = spec_from_file_location(f"cases_of_{op}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OVER_ROWS = ("conv_block", "local_fusion", "global_fusion", "query_attention", "gate", "boundary_logits")


@pytest.mark.parametrize("op", OVER_ROWS)
def test_blocks_over_rows(op: str) -> None:
    """A length, a width or a storage dtype of a block over rows is never tried."""
    cases = cases_of(op).CASES
    assert {case[0] for case in cases} >= LENGTHS
    dim = 2 if op == "query_attention" else 1
    assert {(case[dim], case[-2]) for case in cases} >= set(product(DIMS, DTYPES))
    assert {case[-2:] for case in cases} >= set(product(DTYPES, ("small_batch", "large_batch")))
    if op == "query_attention":
        assert {case[1] for case in cases} >= LENGTHS


def test_attention_block() -> None:
    """A number of heads, of keys, or the way to attend is never tried."""
    cases = cases_of("attention_block").CASES
    alone, crossed = ([case for case in cases if (case[0][1] is None) == is_self] for is_self in (True, False))
    assert {case[0][0] for case in alone} >= LENGTHS
    assert {case[0][1] for case in crossed} >= LENGTHS - {2}
    assert {case[1:3] for case in cases} >= set(product(DIMS, (4, 8)))
    for each in (alone, crossed):
        assert {case[3] for case in each} == DTYPES
        assert {case[2] for case in each} >= {4, 8}
    without_mask = cases_of("attention_block").test_without_mask.pytestmark[0].args[1]
    assert set(without_mask) >= SLOTS


@pytest.mark.parametrize("dtypes", [{"fp32"}, HALF])
def test_bigru(dtypes: set[str]) -> None:
    """A GRU kernel is never tried at a length, in a dtype, or on a sample without clips."""
    cases = [case for case in cases_of("bigru").CASES if case[4] in dtypes]
    assert {case[2] for case in cases} >= LENGTHS
    assert {case[4] for case in cases} == dtypes
    assert {case[1] for case in cases} >= {16, 64, 128}  # the halves of both widths, and a whole one
    assert any(0 in case[3] for case in cases)


@pytest.mark.parametrize(("variant", "dtypes"), [("one_slot", DTYPES), ("rows", HALF)])
def test_slot_attention(variant: str, dtypes: set[str]) -> None:
    """A slot attention kernel is never tried at a length, with a number of slots, or on a sample without clips."""
    cases = [case for case in cases_of("slot_attention").CASES if case[6] == variant]
    assert {case[2] for case in cases} >= LENGTHS
    assert {case[0] for case in cases} >= SLOTS
    assert {case[1] for case in cases} >= DIMS
    assert {case[5] for case in cases} == dtypes
    assert any(0 in case[3] for case in cases)


def test_best_spans() -> None:
    """A length or a number of spans is never tried."""
    module = cases_of("best_spans")
    assert {length for length, _ in module.SIZES} == LENGTHS
    assert {count for _, count in module.SIZES} >= {1, 2, 3, 5}
    assert set(module.STORAGE_DTYPES) == DTYPES


def test_importance() -> None:
    """A length, a width or a storage dtype is never tried."""
    cases = cases_of("importance").CASES
    assert {case[0] for case in cases} >= LENGTHS
    assert {case[1] for case in cases} >= DIMS
    assert {case[2] for case in cases} == DTYPES


def test_word_embedding() -> None:
    """A storage dtype, more words than two blocks hold, or the network's own widths are never tried."""
    cases = cases_of("word_embedding").CASES
    assert {case[5] for case in cases} == DTYPES
    assert max(case[0] for case in cases) > 32
    assert {case[2:5] for case in cases} >= {(300, 50, 128)}
