"""Rows, videos and queries that cannot be trained on: left out one by one, and told."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from img_deploy.errors import AnnotationError, InputError
from img_deploy.training.data import GroundingData
from img_deploy.training.tasks import open_task


@pytest.fixture
def own(narrow_data, tmp_path):
    """A copy of the narrow data to damage, the lines of its test file, and the queries that come of it."""
    root = tmp_path / "data"
    shutil.copytree(narrow_data, root)
    file = root / "dataset" / "charades" / "charades_sta_test_qid.txt"

    def read(lines=None):
        if lines is not None:
            file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        task = open_task("charades", "i3d", root, 24, 20)
        return GroundingData(task, "glove", ("test",), tmp_path / "cache")

    return SimpleNamespace(
        features=task_features(root), lines=file.read_text("utf-8").splitlines(), file=file, read=read
    )


def task_features(root):
    return root / "features" / "charades"


def test_rows_that_cannot_be_used_are_left_out_by_file_and_row(narrow_data, tmp_path):
    """One bad row among thousands would stop a training, and nothing would say which."""
    shutil.copytree(narrow_data, tmp_path / "data")
    file = tmp_path / "data/dataset/charades/charades_sta_test_qid.txt"
    rows = file.read_text().splitlines()
    good = [row.split("##") for row in rows]
    bad = {
        1: f"{good[0][0]}##{good[0][1]}## ",
        2: f"{good[1][0]}##{good[1][1]}##{'x' * 300}",
        3: f"{good[2][0]}##{good[2][1]}##\u200b",
        4: f"{good[3][0].split()[0]} 9 4##{good[3][1]}##{good[3][2]}",
        5: f"{good[4][0]}##{good[4][1]}##{'and then ' * 80}",
    }
    file.write_text("\n".join([*bad.values(), *rows[5:]]) + "\n", encoding="utf-8")
    task = open_task("charades", "i3d", tmp_path / "data", 24, 20)
    queries = GroundingData(task, "glove", ("train", "test"), tmp_path / "cache").queries["test"]
    assert len(queries.samples) == len(rows) - 4
    assert queries.samples[0].qid == int(good[4][1].removeprefix("qid_"))
    for row in (1, 2, 3, 4, 5):
        assert sum(f"{file}:{row}: " in note for note in queries.left_out) == 1
    reversed_rows = [f"{moment.split()[0]} 9 4##{qid}##{query}" for moment, qid, query in good]
    for content, reason in (
        (reversed_rows, rf"none of its {len(rows)} rows has a usable moment \(row 1: got the window 9.0 to 4.0 s"),
        ([bad[2]], ":1: query 'xxx.*and so are all others"),
    ):
        file.write_text("\n".join(content) + "\n", encoding="utf-8")
        with pytest.raises(InputError, match=reason):
            GroundingData(task, "glove", ("train", "test"), tmp_path / "cache")


def test_rows_without_a_moment_are_left_out(every_kind, tmp_path):
    """A tvr file with a few rows of no window could not be trained on."""
    (tmp_path / "data").mkdir()
    shutil.copytree(every_kind / "dataset", tmp_path / "data/dataset")
    file = tmp_path / "data/dataset/charades/charades_sta_train_tvr_format.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["relevant_windows"] = []
    del rows[2]["duration"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_task("charades", "iv2", tmp_path / "data")
    skipped: list[str] = []
    assert [sample.qid for sample in task.read("train", skipped)] == [row["qid"] for row in (rows[0], *rows[3:])]
    assert [f"{file}:2: " in skipped[0], f"{file}:3: " in skipped[1]] == [True, True]
    with pytest.raises(AnnotationError, match=r":2: query .* has no moment"):
        task.read("train")


def test_videos_without_features_are_left_out_and_told(narrow_data, tmp_path):
    """A score over fewer queries than the published ones must not pass unnoticed."""
    root = tmp_path / "data"
    shutil.copytree(narrow_data, root)
    task = open_task("charades", "i3d", root, 24, 20)
    vid = task.read("test")[0].vid
    (root / "features" / "charades" / "i3d_video" / f"{vid}.npy").unlink()
    queries = GroundingData(task, "glove", ("test",), tmp_path / "cache").queries["test"]
    assert queries.absent == 3
    assert vid not in queries.vids
    assert vid in queries.left_out[0]


def test_a_long_sentence_is_cut_and_its_row_named(own):
    """One sentence of 150 words stopped a training on thousands; the paper's code takes its first 128."""
    own.lines[3] += " and then" * 80
    data = own.read(own.lines)
    queries = data.queries["test"]
    (note,) = queries.left_out
    assert f"{own.file}:4: " in note
    assert "first 128" in note
    assert len(queries) == len(own.lines)
    mask = data.batch(queries, list(range(len(queries)))).text.mask
    assert mask.shape[1] == mask[3].sum() == 128


@pytest.mark.parametrize("place", ["i3d_video", "audio"])
def test_a_video_that_cannot_be_read_costs_its_own_queries(own, place):
    """A dangling link or a damaged file among thousands is a remark."""
    (vid, *_) = dict.fromkeys(
        line.split()[0] for line in own.lines if (own.features / place / f"{line[:5]}.npy").exists()
    )
    path = own.features / place / f"{vid}.npy"
    path.unlink()
    path.symlink_to("nowhere.npy")
    queries = own.read().queries["test"]
    assert queries.absent == 3
    assert vid not in queries.vids
    assert f"({vid})" not in queries.left_out[0]
    assert f"(video {vid})" in queries.left_out[0]
    assert f"{vid}.npy" in queries.left_out[0]


def test_queries_of_absent_token_features_are_left_out(every_kind, tmp_path):
    """One file that was not extracted must not stop a training."""
    root = tmp_path / "data"
    shutil.copytree(every_kind, root)
    task = open_task("charades", "clip+sf", root)
    sample = task.read("test")[1]
    (task.text_home / f"qid_{sample.qid}.npy").unlink()
    data = GroundingData(task, "tokens", ("test",), tmp_path / "cache")
    queries = data.queries["test"]
    assert sample.qid not in [one.qid for one in queries.samples]
    assert f"(token features {sample.qid})" in queries.left_out[0]
    for row, one in enumerate(queries.samples):
        np.testing.assert_array_equal(data.token_features(queries, row), data.folder.load_text(one.qid))
