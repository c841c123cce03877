"""Scores of checkpoints and bundles, and the files made of them."""

import json
import shutil

import numpy as np
import pytest
import torch

from img_deploy.errors import BackendError, ConfigError, InputError
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.training.answers import answers_of_network
from img_deploy.training.evaluate import evaluate_answers
from img_deploy.training.evaluation_run import EvaluationRequest, _data, run_evaluation
from img_deploy.training.metrics import summarise, window_iou
from img_deploy.training.submissions import write_ground_truth, write_predictions
from img_deploy.training.train import train


def write_bundle(folder, checkpoint):
    """A bundle of the weights alone, which the torch backend takes: its graphs are tested with the export."""
    from safetensors.torch import save_file

    from img_deploy.runtime.bundle import VOCABULARY, WEIGHTS, Manifest, replacing, write_manifest

    with replacing(folder) as part:
        save_file({name: tensor.contiguous().clone() for name, tensor in checkpoint.weights.items()}, part / WEIGHTS)
        (part / VOCABULARY).mkdir()
        checkpoint.vocabulary.save(part / VOCABULARY)
        limits = {"clips": checkpoint.config.max_clips, "words": 128, "chars": 128}
        config = checkpoint.config.as_dict()
        write_manifest(part, Manifest(config, checkpoint.features, limits, {}, checkpoint.noise_seed))


@pytest.fixture(scope="module")
def best(tmp_path_factory, narrow_data):
    """A checkpoint of a short run, and the request that scores it."""
    from img_deploy.training.config import TrainConfig

    folder = tmp_path_factory.mktemp("evaluate")
    config = TrainConfig(
        task="charades",
        features="i3d",
        data=str(narrow_data),
        cache=str(folder / "cache"),
        video_width=24,
        audio_width=20,
        dim=8,
        heads=2,
        max_clips=16,
        steps=6,
        accelerator="cpu",
        threads=1,
    )
    return train(config, folder / "run").best


def score(evaluation, head, group="all"):
    (found,) = (scores for scores in evaluation.scores if (scores.head, scores.group) == (head, group))
    return found


@pytest.fixture
def scored(best, narrow_data, tmp_path):
    request = EvaluationRequest("charades", narrow_data, checkpoint=best, features="i3d", cache=tmp_path, resamples=50)
    return run_evaluation(request)


def test_groups_hold_the_queries_they_name(scored):
    """The heads are compared on the same queries, and silent videos counted once."""
    counts = {(s.head, s.group): s.queries for s in scored.evaluation.scores}
    heard = int(scored.answers.has_audio.sum())
    silent = len(scored.answers.has_audio) - heard
    assert counts["fused", "all"] == counts["visual", "all"] == heard + silent
    assert counts["fused", "with audio"] == counts["audio", "with audio"] == heard
    assert counts.get(("visual", "without audio"), 0) == silent
    assert ("audio", "all") not in counts


def test_silent_videos_are_answered_by_the_visual_head(scored, tmp_path, narrow_data, best):
    """As at inference: the fused head has nothing to fuse."""
    data = tmp_path / "silent"
    shutil.copytree(narrow_data, data)
    vid = scored.answers.queries.vids[0]
    (data / "features" / "charades" / "audio" / f"{vid}.npy").unlink(missing_ok=True)
    answers = run_evaluation(EvaluationRequest("charades", data, best, features="i3d")).answers
    rows = [row for row, name in enumerate(answers.queries.vids) if name == vid]
    np.testing.assert_array_equal(answers.windows["fused"][rows], answers.windows["visual"][rows])
    assert np.isnan(answers.windows["audio"][rows]).all()
    assert np.isnan(answers.importance[rows]).all()
    np.testing.assert_allclose(answers.windows["visual"], scored.answers.windows["visual"])


def test_scores_do_not_depend_on_the_batch(scored, best):
    """A score that moves with --batch-size cannot be compared with anything."""
    network = Checkpoint.load(best).network()
    one = answers_of_network(network, scored.data, scored.answers.queries, batch_size=1)
    for head in ("fused", "visual", "audio"):
        np.testing.assert_allclose(one.windows[head], scored.answers.windows[head])
    np.testing.assert_allclose(one.importance, scored.answers.importance, atol=1e-5)


def test_evaluation_leaves_training_mode_and_random_state_alone(scored, best):
    """An evaluation in the middle of a run must not change the run."""
    network = Checkpoint.load(best).network().train()
    before = torch.get_rng_state()
    answers_of_network(network, scored.data, scored.answers.queries)
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_submission_scores_what_the_evaluation_says(scored, tmp_path):
    """The community's evaluators read this file: its first window against theirs."""
    write_predictions(tmp_path / "predictions.jsonl", scored.task, scored.answers)
    write_ground_truth(tmp_path / "truth.jsonl", scored.task, scored.answers)
    published = scored.task.dataset / "charades_sta_test_tvr_format.jsonl"
    files = (tmp_path / "predictions.jsonl", tmp_path / "truth.jsonl", published)
    found, truth, rows = ({row["qid"]: row for row in map(json.loads, p.read_text().splitlines())} for p in files)
    assert truth == rows
    assert found.keys() == rows.keys()
    pairs = [(found[qid]["pred_relevant_windows"][0][:2], rows[qid]["relevant_windows"][0]) for qid in rows]
    expected = score(scored.evaluation, "fused").metrics
    for name, value in summarise(window_iou(*zip(*pairs, strict=True))).items():
        assert value == pytest.approx(expected[name].value, abs=1e-9)


def test_intervals_bins_and_histogram_cover_everything(scored):
    """Numbers that leave out queries silently."""
    evaluation = scored.evaluation
    assert sum(part.queries for part in evaluation.ratio_bins["fused"]) == evaluation.queries
    assert len(evaluation.ratio_bins["fused"]) == 5
    assert sum(evaluation.importance_counts) == score(evaluation, "fused", "with audio").queries
    for scores in evaluation.scores:
        for interval in scores.metrics.values():
            assert interval.low <= interval.value <= interval.high
    json.dumps(evaluation.as_dict(), allow_nan=False)


def test_a_bundle_scores_what_its_checkpoint_scores(scored, best, narrow_data, tmp_path):
    """The numbers of a checkpoint are quoted for what is deployed."""
    bundle = tmp_path / "deploy"
    write_bundle(bundle, Checkpoint.load(best))
    request = EvaluationRequest("charades", narrow_data, bundle=bundle, features="i3d", resamples=50)
    found = run_evaluation(request)
    for head in ("fused", "visual"):
        np.testing.assert_allclose(found.answers.windows[head], scored.answers.windows[head], atol=1e-6)
    np.testing.assert_allclose(found.answers.importance, scored.answers.importance, atol=1e-5)
    np.testing.assert_allclose(found.answers.scores, scored.answers.scores, rtol=1e-3)
    for scores in found.evaluation.scores:
        same = score(scored.evaluation, scores.head, scores.group)
        assert {n: m.value for n, m in scores.metrics.items()} == pytest.approx(
            {n: m.value for n, m in same.metrics.items()}
        )


@pytest.mark.parametrize("what", ["checkpoint", "bundle"])
def test_a_video_without_a_finite_result_is_named(best, narrow_data, tmp_path, what):
    """NaN scored as a miss, or a traceback that names no video, would leave the user with thousands to search."""
    data = tmp_path / "data"
    shutil.copytree(narrow_data, data)
    vid = (data / "dataset/charades/charades_sta_test_qid.txt").read_text()[:5]
    path = data / "features/charades/i3d_video" / f"{vid}.npy"
    np.save(path, np.full_like(np.load(path), 3e38))
    source = best
    if what == "bundle":
        source = tmp_path / "deploy"
        write_bundle(source, Checkpoint.load(best))
    with pytest.raises(InputError, match=rf"{vid}.*too large for the network"):
        run_evaluation(EvaluationRequest("charades", data, features="i3d", **{what: source}))


def test_plots_are_pictures(scored, tmp_path):
    """An empty or cut PNG looks like a finished run."""
    from img_deploy.training.plots import write_plots

    paths = write_plots(scored.evaluation, tmp_path / "plots", "title")
    assert [path.name for path in paths] == ["heads.png", "moment_length.png", "importance.png"]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB`\x82")


def test_an_answer_is_drawn(tmp_path):
    """The demo's pictures: with and without sound."""
    from img_deploy.runtime.results import Answer, moments_of
    from img_deploy.training.pictures import draw_answer

    curve = np.linspace(0, 1, 8, dtype=np.float32)
    moments = moments_of([(2, 4, 0.7)], 8, 16.0)
    heard = Answer("V", "a $5 query_with <signs>", 1, "fused", 8, 16.0, 0.4, moments, curve, curve[::-1], curve * 0)
    silent = Answer("V", "query", 1, "visual", 8, 16.0, None, moments, curve)
    for name, answer in (("heard", heard), ("silent", silent)):
        path = draw_answer(answer, [(4.0, 9.0)], tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="without seconds"):
        draw_answer(
            Answer("V", "query", 1, "visual", 8, None, None, moments_of([(2, 4, 0.7)], 8, None), curve),
            [(4.0, 9.0)],
            tmp_path / "no.png",
        )


def test_an_evaluation_of_nothing_or_of_two_things_is_refused(narrow_data, best, tmp_path):
    """A command that picks one of two silently scores the wrong one."""
    with pytest.raises(ConfigError, match="either a checkpoint"):
        run_evaluation(EvaluationRequest("charades", narrow_data))
    with pytest.raises(ConfigError, match="either a checkpoint"):
        run_evaluation(EvaluationRequest("charades", narrow_data, checkpoint=best, bundle=tmp_path))
    with pytest.raises(ConfigError, match="split is 'val_2'"):
        run_evaluation(EvaluationRequest("charades", narrow_data, checkpoint=best, split="val_2"))
    with pytest.raises(ConfigError, match="say with --features"):
        run_evaluation(EvaluationRequest("charades", narrow_data, checkpoint=best))


def test_features_of_another_kind_are_refused(tmp_path, best):
    """A checkpoint of narrow features on a folder of wide ones."""
    from img_deploy.training.synthetic.config import SyntheticConfig
    from img_deploy.training.synthetic.writer import write_synthetic

    write_synthetic(tmp_path / "wide", SyntheticConfig(videos=8, moments=3, min_clips=11, max_clips=14, max_moment=4))
    with pytest.raises(InputError, match="width 24"):
        run_evaluation(EvaluationRequest("charades", tmp_path / "wide", checkpoint=best, features="i3d"))


@pytest.mark.parametrize(("device", "error"), [("gpu", ConfigError), ("cuda", BackendError)])
def test_a_device_that_is_not_there_is_one_clear_error(narrow_data, best, monkeypatch, device, error):
    """It was a traceback of PyTorch after all features had been read."""
    monkeypatch.setattr("img_deploy.training.evaluation_run.why_no_gpu", lambda: "no NVIDIA GPU")
    with pytest.raises(error, match=rf"{device}.*expected cpu or cuda|{device}: no NVIDIA GPU"):
        run_evaluation(EvaluationRequest("charades", narrow_data, checkpoint=best, features="i3d", device=device))


def test_token_features_of_another_encoder_are_refused(every_kind, tmp_path):
    """CLIP's tokens for LLaMA's: the shapes did not fit in mid-evaluation; in mid-assertion where a task has none."""
    kinds = {"video": {"name": "clip+sf", "width": 2816}, "audio": {"name": "panns", "width": 2048}}
    kinds["text"] = {"name": "clip-text", "width": 512}
    for task, features in (("charades", "iv2"), ("activitynet", "i3d")):
        request = EvaluationRequest(task, every_kind, checkpoint=tmp_path, features=features)
        with pytest.raises(ConfigError, match="reads token features of clip-text"):
            _data(request, kinds, None, 128, None)


def test_the_bootstrap_is_over_videos(scored):
    """Queries of one video are alike: intervals over queries would be too narrow."""
    again = evaluate_answers(scored.answers, resamples=50)
    assert again == scored.evaluation
