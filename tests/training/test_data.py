"""Annotations and features as batches: every task and kind, the two numberings, labels and padding."""

import json
import shutil
from typing import get_args

import numpy as np
import pytest
import torch

from img_deploy.errors import AnnotationError, ConfigError, InputError
from img_deploy.features import downsample, kinds_of
from img_deploy.training.config import TrainConfig
from img_deploy.training.constants import FeatureName
from img_deploy.training.data import GroundingData, split_by_video
from img_deploy.training.datasets import prepare
from img_deploy.training.labels import label_moments
from img_deploy.training.loader import StepBatches, StepLoader, TrainingTargets
from img_deploy.training.synthetic.queries import read_synthetic
from img_deploy.training.tasks import FEATURES, open_task


@pytest.fixture
def data(narrow_data, tmp_path):
    task = open_task("charades", "i3d", narrow_data, 24, 20)
    return GroundingData(task, "glove", ("train", "test"), tmp_path / "cache")


CASES = [
    ("charades", "i3d", "glove"),
    ("charadesAM", "i3d", "glove"),
    ("charades", "clip+sf", "tokens"),
    ("charades", "iv2", "tokens"),
    ("charadesAM", "iv2", "glove"),
    ("activitynet", "i3d", "glove"),
]


@pytest.mark.parametrize(("name", "features", "variant"), CASES)
def test_every_task_and_kind_gives_batches(every_kind, tmp_path, name, features, variant):
    """A kind that training reads otherwise than inference would be learned wrong."""
    task = open_task(name, features, every_kind)
    data = GroundingData(task, variant, ("train", "test"), tmp_path)
    queries = data.queries["train"]
    batch = data.batch(queries, [0, 1, 2])
    assert batch.video.shape[2] == task.video.width
    assert batch.audio.shape[2] == task.audio.width
    width = {"glove": 300, "tokens": 4096 if features == "iv2" else 512}[variant]
    assert batch.text.features.shape[2] == width
    first = data.folder.load(queries.vids[0])
    clips = len(first.video)
    torch.testing.assert_close(batch.video[0, :clips].numpy(), first.video, rtol=0, atol=0)
    assert batch.clip_mask[0].sum() == clips
    assert not batch.video[0, clips:].any()


def test_the_default_variant_follows_the_features(every_kind, tmp_path):
    """InternVideo2 and CLIP runs of the paper read token features; without them a run says what it does instead."""
    settings = {"task": "charades", "data": str(every_kind), "cache": str(tmp_path)}
    found = {kind: prepare(TrainConfig(features=kind, **settings)).data.variant for kind in ("i3d", "clip+sf", "iv2")}
    assert found == {"i3d": "glove", "clip+sf": "tokens", "iv2": "tokens"}
    bare = tmp_path / "bare"
    shutil.copytree(every_kind, bare)
    shutil.rmtree(bare / "features" / "charades" / "iv2_features" / "llama2_txt")
    datasets = prepare(TrainConfig(features="iv2", task="charades", data=str(bare), cache=str(tmp_path)))
    assert datasets.data.variant == "glove"
    assert any("no token features" in note for note in datasets.notes)


@pytest.mark.parametrize(("features", "numbering"), [("clip+sf", "txt"), ("iv2", "tvr")])
def test_token_features_are_those_of_the_query(every_kind, tmp_path, features, numbering):
    """The two numberings disagree on every test row: mixed, a query would be answered for another's tokens."""
    data = GroundingData(open_task("charades", features, every_kind), "tokens", ("train", "test"), tmp_path)
    facts = read_synthetic(every_kind).by_qid(numbering)
    queries = data.queries["test"]
    for row, sample in enumerate(queries.samples):
        assert facts[sample.qid].query == sample.query
        np.testing.assert_array_equal(data.token_features(queries, row), data.folder.load_text(sample.qid))


def test_token_features_of_the_other_numbering_are_refused(every_kind, tmp_path):
    """CLIP's features go by the txt files, InternVideo2's annotations are the jsonl."""
    from dataclasses import replace

    from img_deploy.features.kinds import kind_named

    task = replace(open_task("charades", "iv2", every_kind), text=kind_named("clip"))
    with pytest.raises(InputError, match="go by the query ids of the txt files"):
        GroundingData(task, "tokens", ("train",), tmp_path)


def test_the_names_of_features_are_those_of_the_table():
    """A kind added to the table could not be trained on."""
    assert get_args(FeatureName) == FEATURES == tuple(kind.name for kind in kinds_of("video"))


def test_submissions_carry_the_jsonl_ids(every_kind):
    """The community's evaluators look answers up by the ids of the jsonl files."""
    facts = read_synthetic(every_kind).by_qid("txt")
    for name in ("charades", "charadesAM"):
        task = open_task(name, "i3d", every_kind)
        samples = task.read("test")
        ids = task.submission_ids(samples)
        assert ids == {sample.qid: facts[sample.qid].qids["tvr"] for sample in samples}
        assert any(txt != tvr for txt, tvr in ids.items())


def test_repeated_sentences_of_a_video_keep_their_order(tmp_path, narrow_data):
    """The same sentence twice on one video, at two moments: only the order tells which row is which."""
    root = tmp_path / "data"
    shutil.copytree(narrow_data, root)
    folder = root / "dataset" / "charades"
    rows = [("AAAAA", 1.0, 2.0), ("AAAAA", 4.0, 6.0)]
    durations = {"AAAAA": {"duration": 9.0}}
    (folder / "charades.json").write_text(json.dumps(durations))
    text = "".join(f"{vid} {s} {e}##qid_{70 + k}##Person opens a door.\n" for k, (vid, s, e) in enumerate(rows))
    (folder / "charades_sta_test_qid.txt").write_text(text)
    (folder / "charades_audiomatter_qid.txt").write_text(text.splitlines(keepends=True)[1])
    tvr = [
        {"qid": 40 + k, "query": "person opens a door. ", "duration": 9.0, "vid": vid, "relevant_windows": [[s, e]]}
        for k, (vid, s, e) in enumerate(rows)
    ]
    (folder / "charades_sta_test_tvr_format.jsonl").write_text("\n".join(map(json.dumps, tvr)))
    for name, expected in (("charades", {70: 40, 71: 41}), ("charadesAM", {71: 41})):
        task = open_task(name, "i3d", root)
        assert task.submission_ids(task.read("test")) == expected


@pytest.mark.parametrize(
    "file",
    [
        "charades_audiomatter_test_tvr_format.jsonl",
        "charades_audiomatter_tvr_format.jsonl",
        "charades_audiomatterhao_tvr_format.json",
    ],
)
def test_charades_audiomatter_is_found_under_its_three_names(every_kind, tmp_path, file):
    """The file goes by three names in the wild."""
    root = tmp_path / "data"
    shutil.copytree(every_kind / "dataset", root / "dataset")
    folder = root / "dataset" / "charades"
    task = open_task("charadesAM", "iv2", root)
    expected = task.read("test")
    (folder / "charades_audiomatter_test_tvr_format.jsonl").rename(folder / file)
    assert task.read("test") == expected
    (folder / file).unlink()
    with pytest.raises(AnnotationError, match=r"charades_audiomatterhao_tvr_format\.json"):
        task.read("test")


def test_long_videos_are_down_sampled(narrow_data, tmp_path):
    """The positional table ends at max_clips."""
    task = open_task("charades", "i3d", narrow_data, 24, 20)
    data = GroundingData(task, "glove", ("test",), tmp_path, max_clips=7)
    path = narrow_data / "features" / "charades" / "i3d_video" / f"{data.store.vids[0]}.npy"
    np.testing.assert_array_equal(data.store.video[0], downsample(np.load(path), 7))
    assert set(data.store.clips) == {7}


def test_videos_without_audio_have_none(data):
    """Silent videos must not pass for videos whose sound is zero."""
    heard = data.store.has_audio
    record = {path.stem for path in (data.task.feature_folder / "audio").iterdir()}
    assert {vid for vid, has in zip(data.store.vids, heard, strict=True) if has} == record & set(data.store.vids)
    assert not heard.all()


def test_labels_and_saliency_clips_belong_to_their_queries(data):
    """Labels shifted by one row would train on noise."""
    queries = data.queries["train"]
    targets = TrainingTargets(data, queries, seed=0)
    rows = [5, 0, 9]
    batch = data.batch(queries, rows, targets.of(0, rows))
    for k, row in enumerate(rows):
        sample = queries.samples[row]
        clips = int(batch.clip_mask[k].sum())
        (expected,) = label_moments(*([value] for value in (*sample.windows[0], clips, sample.duration)))
        assert [batch.targets.start[k], batch.targets.end[k]] == expected.tolist()
        assert (batch.targets.positives[k] >= expected[0]).all()
        assert (batch.targets.positives[k] <= expected[1]).all()
        outside = batch.targets.negatives[k]
        assert ((outside < expected[0]) | (outside > expected[1])).all()
        assert (batch.qids[k], batch.vids[k]) == (sample.qid, sample.vid)


def test_saliency_clips_depend_on_epoch_and_seed_not_on_the_batch(data):
    """Else a resumed run, or another batch size, would draw others."""
    queries = data.queries["train"]
    rows = np.arange(len(queries))
    whole = TrainingTargets(data, queries, 0).of(3, rows)
    part = TrainingTargets(data, queries, 0).of(3, rows[7:9])
    assert torch.equal(part.positives, whole.positives[7:9])
    assert not torch.equal(TrainingTargets(data, queries, 0).of(4, rows).positives, whole.positives)
    assert not torch.equal(TrainingTargets(data, queries, 1).of(3, rows).positives, whole.positives)


def test_words_are_those_that_inference_encodes(data):
    """Training and inference must see the same words."""
    from img_deploy.text import tokenize

    queries = data.queries["test"]
    batch = data.batch(queries, list(range(len(queries))))
    for row, sample in enumerate(queries.samples):
        encoded = data.vocabulary.encode(tokenize(sample.query))
        count, width = encoded.char_ids.shape
        np.testing.assert_array_equal(batch.text.features[row, :count], encoded.word_vectors)
        np.testing.assert_array_equal(batch.text.unknown[row, :count], encoded.word_unknown)
        np.testing.assert_array_equal(batch.text.char_ids[row, :count, :width], encoded.char_ids)
        assert batch.text.mask[row].sum() == count
        assert not batch.text.features[row, count:].any()


def test_a_step_has_its_batch_whoever_asks(data):
    """Order is a function of seed and epoch: a run that goes on at step 9 sees what it would have seen."""
    queries = data.queries["train"]
    batches = StepBatches(data, queries, 8, seed=3)
    forward = [batches[step].qids for step in range(2 * batches.epoch_steps)]
    assert [batches[step].qids for step in reversed(range(2 * batches.epoch_steps))] == forward[::-1]
    epoch = forward[: batches.epoch_steps]
    assert sorted(qid for qids in epoch for qid in qids) == sorted(sample.qid for sample in queries.samples)
    assert forward[batches.epoch_steps :] != epoch
    loader = StepLoader(batches, 5, 2 * batches.epoch_steps)
    assert [batch.qids for batch in loader] == forward[5:]
    assert len(loader) == 2 * batches.epoch_steps


def test_worker_processes_load_the_same_batches(data):
    """More workers must change the time alone."""
    batches = StepBatches(data, data.queries["train"], 8, seed=3)
    plain = [batch.qids for batch in StepLoader(batches, 0, 4)]
    assert [batch.qids for batch in StepLoader(batches, 0, 4, workers=2)] == plain


@pytest.mark.parametrize("world", [2, 3])
def test_devices_share_a_step_evenly(data, world):
    """Two devices that see the same queries would halve the batch; none may be left without."""
    queries = data.queries["train"]
    whole = StepBatches(data, queries, 6, seed=0)
    shares = [StepBatches(data, queries, 6, 0, rank, world) for rank in range(world)]
    for step in range(whole.epoch_steps):
        parts = [share[step].qids for share in shares]
        assert len({len(part) for part in parts}) == 1
        assert {qid for part in parts for qid in part} == set(whole[step].qids)


def test_splits_are_by_video_and_by_seed(data):
    """A video in both parts would flatter the validation score."""
    queries = data.queries["train"]
    train, held = split_by_video(queries, 0.3, seed=1)
    assert len(train) + len(held) == len(queries)
    assert not set(train.vids) & set(held.vids)
    assert split_by_video(queries, 0.3, 1)[1].samples == held.samples
    assert split_by_video(queries, 0.3, 2)[1].samples != held.samples


def test_wrong_tasks_and_places_are_told(narrow_data, tmp_path):
    """All problems at once, and what was probably meant."""
    with pytest.raises(ConfigError, match=r"task is 'x'.*features are 'y'"):
        open_task("x", "y", narrow_data)
    with pytest.raises(ConfigError, match="expected i3d"):
        open_task("activitynet", "iv2", narrow_data)
    with pytest.raises(AnnotationError, match="did you mean"):
        open_task("charades", "i3d", narrow_data / "dataset")
    with pytest.raises(AnnotationError, match="img-deploy synth"):
        open_task("charades", "i3d", tmp_path)
