"""Rows of answers: the field's keys, plain types, full precision."""

import dataclasses
import json

import numpy as np
import pytest

from img_deploy.errors import InputError
from img_deploy.runtime.results import Answer, moments_of


def test_row(make_answer):
    """The field's evaluators read other seconds, or find a key that makes them look for saliency labels."""
    row = make_answer().to_row()
    assert list(row)[:4] == ["qid", "query", "vid", "pred_relevant_windows"]
    assert row["pred_relevant_windows"] == [
        [1 * 30.3 / 9, 5 * 30.3 / 9, 0.1234567890123],
        [8 * 30.3 / 9, 9 * 30.3 / 9, 1e-12],
    ]
    assert "pred_saliency_scores" not in row
    assert row["spans"] == [[1, 4], [8, 8]]
    assert row["fractions"] == [[1 / 9, 5 / 9, 0.1234567890123], [8 / 9, 1.0, 1e-12]]
    assert (row["duration"], row["clips"], row["head"]) == (30.3, 9, "fused")
    assert row["importance"] == pytest.approx(0.3)
    assert json.loads(json.dumps(row)) == row


def test_row_without_a_duration(make_answer):
    """Fractions are mistaken for seconds by whoever reads the file."""
    answer = make_answer(duration=None, head="visual", qid=None)
    row = answer.to_row()
    assert "pred_relevant_windows" not in row
    assert (row["duration"], row["importance"], row["qid"], row["head"]) == (None, None, None, "visual")
    assert len(row["fractions"]) == len(row["spans"]) == 2
    assert answer.best.window is None
    assert answer.best.span == (1, 4)


def test_plain_types(make_answer):
    """numpy numbers in an answer make JSON fail, after the work is done."""
    answer = make_answer(qid=np.int64(3), duration=np.float64(30.3), clips=np.int64(9))
    assert json.loads(json.dumps(answer.to_row()))["qid"] == 3
    assert type(answer.key[1]) is int


def test_bad_duration_and_parts():
    """An answer reports seconds of a duration that cannot be, or none although the duration is known."""
    with pytest.raises(InputError, match="duration"):
        moments_of([(0, 0, 1.0)], 4, 0.0)
    saliency = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="seconds"):
        Answer("v", "q", 1, "visual", 4, 20.0, None, moments_of([(0, 0, 1.0)], 4, None), saliency)
    with pytest.raises(ValueError, match="without moments"):
        Answer("v", "q", 1, "visual", 4, 20.0, None, (), saliency)


def test_answers_cannot_be_changed(make_answer):
    """Threads that share an answer see it change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_answer().vid = "other"
