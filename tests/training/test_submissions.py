"""The community's prediction and ground-truth files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.annotations import Sample, read_samples
from img_deploy.errors import InputError
from img_deploy.training.submissions import write_ground_truth, write_predictions

SECONDS = st.floats(0, 1000)
ROWS = st.lists(st.tuples(st.integers(0, 10**6), st.text(), SECONDS, SECONDS, SECONDS), unique_by=lambda row: row[0])
TASK = SimpleNamespace(submission_ids=lambda samples: {sample.qid: sample.qid + 5 for sample in samples})


def answers_of(rows):
    """Answers to the queries ``qid, query, start, end, score``, whose annotated moments are 1 to 2.5 s."""
    samples = tuple(Sample(qid, "3MSZA", query, 30.5, ((1.0, 2.5),)) for qid, query, *_ in rows)
    windows = {"fused": np.array([row[2:4] for row in rows]).reshape(-1, 2)}
    return SimpleNamespace(
        queries=SimpleNamespace(samples=samples), windows=windows, scores=np.array([row[4] for row in rows])
    )


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@settings(max_examples=25)
@given(ROWS)
def test_predictions_survive_the_file(tmp_path_factory, rows):
    """A submission that rounds or loses a window is scored lower than the model."""
    path = tmp_path_factory.mktemp("rows") / "predictions.jsonl"
    assert write_predictions(path, TASK, answers_of(rows)) == len(rows)
    assert lines(path) == [
        {"qid": qid + 5, "query": query, "vid": "3MSZA", "pred_relevant_windows": [[start, end, score]]}
        for qid, query, start, end, score in sorted(rows)
    ]


def test_ground_truth_is_what_the_evaluators_read(tmp_path):
    """moment_detr's evaluator indexes these keys; its file is read back by this program too."""
    path = tmp_path / "truth.jsonl"
    assert write_ground_truth(path, TASK, answers_of([(3, "person sits.", 0.0, 9.0, 1.0)])) == 1
    assert lines(path) == [
        {"qid": 8, "query": "person sits.", "duration": 30.5, "vid": "3MSZA", "relevant_windows": [[1.0, 2.5]]}
    ]
    assert read_samples(path) == [Sample(8, "3MSZA", "person sits.", 30.5, ((1.0, 2.5),))]


@pytest.mark.parametrize("write", [write_predictions, write_ground_truth])
def test_a_place_that_cannot_be_written_is_named(tmp_path, write):
    """An evaluation of an hour must not end in a traceback."""
    with pytest.raises(InputError, match=r"none/rows\.jsonl: cannot be written"):
        write(tmp_path / "none" / "rows.jsonl", TASK, answers_of([]))
    assert not list(tmp_path.iterdir())
