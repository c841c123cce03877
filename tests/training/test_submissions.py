"""The community's prediction and ground-truth files."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import AnnotationError, InputError
from img_deploy.training.submissions import (
    Prediction,
    read_predictions,
    score_predictions,
    write_ground_truth,
    write_predictions,
)

SECONDS = st.floats(0, 1000, allow_nan=False)
WINDOWS = st.lists(st.tuples(SECONDS, SECONDS, st.floats(-5, 5)), min_size=1, max_size=4).map(tuple)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(Prediction, st.integers(0, 10**6), st.text(), st.text(), WINDOWS), unique_by=lambda p: p.qid))
def test_predictions_survive_the_file(tmp_path_factory, predictions):
    """A submission that rounds or loses a window is scored lower than the model."""
    path = tmp_path_factory.mktemp("rows") / "predictions.jsonl"
    assert write_predictions(path, predictions) == len(predictions)
    assert read_predictions(path) == predictions


def test_prediction_rows_have_the_evaluators_keys(tmp_path):
    """moment_detr's evaluator indexes these keys; a saliency key would make it look for labels that do not exist."""
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [Prediction(7, "person sits.", "3MSZA", ((1.0, 2.5, 0.9), (0.0, 3.0, 0.4)))])
    (row,) = map(json.loads, path.read_text().splitlines())
    assert row == {
        "qid": 7,
        "query": "person sits.",
        "vid": "3MSZA",
        "pred_relevant_windows": [[1.0, 2.5, 0.9], [0.0, 3.0, 0.4]],
    }
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "2: got no JSON"),
        ("[1, 2]", "2: got list"),
        ('{"qid": 1}', "pred_relevant_windows"),
        ('{"qid": 1, "pred_relevant_windows": []}', "no window"),
        ('{"qid": 1, "pred_relevant_windows": [[0, 1]]}', "score"),
        ('{"qid": 1, "pred_relevant_windows": [[0, NaN, 1]]}', "finite"),
        ('{"qid": 0, "pred_relevant_windows": [[0, 1, 1]]}', "second time"),
    ],
)
def test_bad_rows_are_named(tmp_path, line, message):
    """A bad row deep in a file of thousands must be found by its number, not by a traceback."""
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"qid": 0, "pred_relevant_windows": [[0, 1, 1]]}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_predictions(path)


def test_unreadable_files_are_named(tmp_path):
    """A missing or binary file must be one clear line."""
    with pytest.raises(InputError, match=r"none\.jsonl"):
        read_predictions(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary"):
        read_predictions(tmp_path / "binary")


@pytest.mark.parametrize("windows", [(), ((0.0, float("nan"), 1.0),)])
def test_impossible_predictions_are_not_written(tmp_path, windows):
    """The evaluators crash on empty windows and score NaN as a miss."""
    path = tmp_path / "predictions.jsonl"
    path.write_text("before")
    with pytest.raises(InputError):
        write_predictions(path, [Prediction(1, "q", "v", windows)])
    assert path.read_text() == "before"


def test_duplicate_predictions_are_refused(tmp_path):
    """An evaluator keeps the last row of a query and says nothing."""
    row = Prediction(1, "q", "v", ((0.0, 1.0, 1.0),))
    with pytest.raises(InputError, match="twice"):
        write_predictions(tmp_path / "rows.jsonl", [row, row])


def test_ground_truth_is_cut_to_the_video(tmp_path):
    """The published files are cut; an evaluator would hold a prediction's end against a longer moment."""
    sample = SimpleNamespace(qid=3, vid="3MSZA", query="person sits.", duration=30.5, windows=((-1.0, 31.2),))
    path = tmp_path / "truth.jsonl"
    assert write_ground_truth(path, [sample]) == 1
    assert json.loads(path.read_text()) == {
        "qid": 3,
        "query": "person sits.",
        "duration": 30.5,
        "vid": "3MSZA",
        "relevant_windows": [[0.0, 30.5]],
    }
    sample.duration = None
    with pytest.raises(AnnotationError, match="duration"):
        write_ground_truth(path, [sample])


def test_scores_use_the_first_window_of_the_same_queries():
    """Scoring another window than the first, or a subset of the queries, would flatter the model."""
    rows = [Prediction(k, "q", "v", ((0.0, 2.0, 0.9), (4.0, 8.0, 0.8))) for k in (1, 2)]
    truth = {1: [[0.0, 2.0]], 2: [[4.0, 8.0], [0.0, 4.0]]}
    assert score_predictions(rows, truth) == {1: 1.0, 2: 0.5}
    with pytest.raises(InputError, match="numbering"):
        score_predictions(rows[:1], truth)
    with pytest.raises(InputError, match="not annotated"):
        score_predictions(rows, {1: [[0.0, 2.0]]})
