"""The Python API and bad input: what is taken, and what is refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from img_deploy.errors import BackendError, BundleError, FeatureError, InputError, QueryError
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.predictor import Predictor, load_bundle
from img_deploy.text.vocabulary import Vocabulary

ROUNDING = 1e-5
"""Of one computation done twice: how CPU kernels split their sums among threads depends on the machine's load."""


def close(one, other):
    """The same numbers, but for the order in which they were summed."""
    np.testing.assert_allclose(one, other, atol=ROUNDING, rtol=0)


GOOD = np.zeros((5, 24), np.float32)


@pytest.mark.parametrize(
    ("video", "audio", "told"),
    [
        (np.zeros((5, 23), np.float32), None, "got width 23, expected 24"),
        (np.zeros(24, np.float32), None, "got shape (24,), expected (clips, width)"),
        (np.zeros((2, 5, 24), np.float32), None, "got shape (2, 5, 24)"),
        (np.zeros((0, 24), np.float32), None, "got no clips"),
        (np.full((5, 24), np.nan, np.float32), None, "got NaN at clip 0"),
        (np.full((5, 24), -np.inf), None, "got Inf at clip 0"),
        (np.full((5, 24), 1e300), None, "got Inf at clip 0"),
        (np.full((5, 24), 3e38, np.float32), None, "too large for the network"),
        (np.array([[None] * 24]), None, "array of Python objects"),
        (np.array([["a"] * 24]), None, "got dtype <U1"),
        ([GOOD, np.zeros((5, 3), np.float32)], None, "video 1: video features: got width 3"),
        (GOOD, np.zeros((5, 24), np.float32), "audio features: got width 24, expected 20"),
        (GOOD, np.zeros((0, 20), np.float32), "audio features: got no clips"),
        (GOOD, np.full((5, 20), np.nan), "audio features: got NaN"),
        (GOOD, np.zeros(20), "audio features: got shape (20,)"),
    ],
)
def test_bad_features(predictors, video, audio, told):
    """Broken features would give a wrong answer, or a traceback from deep inside."""
    with pytest.raises(FeatureError) as refused:
        predictors["tiny_glove"].encode_video(video, audio)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_odd_but_good_features(predictors):
    """A video of one clip, a very long one, other float types or ActivityNet's shape would be refused."""
    predictor = predictors["tiny_glove"]
    query = predictor.encode_query("w001")
    rng = np.random.default_rng(0)
    one = predictor.ground(predictor.encode_video(rng.standard_normal((1, 24)), rng.standard_normal((9, 20))), query)
    assert (one.clips, one.best.span, one.head) == (1, (0, 0), "fused")
    long = predictor.encode_video(rng.standard_normal((100_000, 24), dtype=np.float32), rng.standard_normal((1, 20)))
    assert (long.clips, long.source_clips) == (16, 100_000)
    video = rng.standard_normal((6, 24)).astype(np.float16)
    shaped = predictor.encode_video(video.reshape(6, 1, 1, 24)).visual_clips
    close(shaped, predictor.encode_video(video.astype(np.float64)).visual_clips)


@pytest.mark.parametrize(
    ("name", "text", "error", "told"),
    [
        ("tiny_glove", "", QueryError, "got no words"),
        ("tiny_glove", " \n ", QueryError, "got no words"),
        ("tiny_glove", "x" * 500, QueryError, "a word of 500 characters"),
        ("tiny_glove", np.zeros((3, 18), np.float32), QueryError, "expected a sentence"),
        ("tiny_vlm", "person opens the door", QueryError, "expected its token features"),
        ("tiny_vlm", np.zeros((3, 17), np.float32), FeatureError, "got width 17, expected 18"),
        ("tiny_vlm", np.zeros((0, 18), np.float32), FeatureError, "got no clips"),
        ("tiny_vlm", np.full((3, 18), np.inf), FeatureError, "got Inf"),
    ],
)
def test_bad_queries(predictors, name, text, error, told):
    """A query that means nothing to the network would be answered."""
    with pytest.raises(error) as refused:
        predictors[name].encode_query(text)
    assert told in str(refused.value)


def test_bad_arguments(predictors):
    """Lists that do not fit each other would be paired silently; options out of range would reach the decoder."""
    predictor = predictors["tiny_glove"]
    videos, queries = predictor.encode_video([GOOD, GOOD]), predictor.encode_query(["w001", "w002", "w003"])
    for call, told in [
        (lambda: predictor.ground(videos, queries), "got 2 videos and 3 queries"),
        (lambda: predictor.ground(videos, queries, pairs=[(0, 3)]), "got (0, 3)"),
        (lambda: predictor.ground(videos, queries, pairs=[(-1, 0)]), "got (-1, 0)"),
        (lambda: predictor.ground(videos, queries[0], durations=[1.0]), "durations: got 1, expected 2"),
        (lambda: predictor.ground(videos, queries[0], durations=[1.0, 0.0]), "got 0.0 seconds"),
        (lambda: predictor.ground(videos[0], queries[0], durations=-2.0), "got -2.0 seconds"),
        (lambda: predictor.ground(videos[0], queries[0], durations=float("nan")), "got nan seconds"),
        (lambda: predictor.ground(videos[0], queries[0], durations=10**400), "got 1000"),
        (lambda: predictor.ground(videos[0], queries[0], top_k=0), "top_k: got 0"),
        (lambda: predictor.ground(videos[0], queries[0], nms=1.5), "nms: got 1.5"),
        (lambda: predictor.ground(videos[0], queries[0], batch_size=0), "batch_size: got 0"),
        (lambda: predictor.encode_video([GOOD, GOOD], [None]), "audio: got 1, expected 2"),
        (lambda: predictor.encode_video([GOOD], GOOD), "got one array for a list of videos"),
        (lambda: predictor.encode_query(["a", "b"], qid=[1]), "qid: got 1, expected 2"),
    ]:
        with pytest.raises(InputError) as refused:
            call()
        assert told in str(refused.value)


class Thing:
    """Not a number, not a text."""

    def __repr__(self):
        return "<thing>"


def test_arguments_of_other_libraries(predictors):
    """A product that keeps its ids and durations in arrays or tensors would get a traceback, or numbers of NumPy."""
    predictor = predictors["tiny_glove"]
    clips = [GOOD, GOOD + 1, GOOD - 1]
    made = predictor.encode_video(clips, vid=np.array(["x", "y", "z"]))
    asked = [
        predictor.encode_query(["w001", "w002", "w003"], qid=qids)
        for qids in (np.array([7, 8, 9]), torch.tensor([7, 8, 9]), (np.int32(7), torch.tensor(8), 9))
    ]
    for queries, durations in zip(
        asked, (np.array([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0]), (np.float32(1), 2, torch.tensor(3.0))), strict=True
    ):
        for pairs in (None, np.array([[0, 0], [1, 1], [2, 2]]), torch.tensor([[0, 0], [1, 1], [2, 2]])):
            answers = predictor.ground(made, queries, np.int64(2), np.float32(0.5), durations, pairs=pairs)
            assert [(a.vid, a.qid, a.duration) for a in answers] == [("x", 7, 1.0), ("y", 8, 2.0), ("z", 9, 3.0)]
            for answer in answers:
                moment = answer.best
                numbers = [answer.qid, answer.duration, answer.clips, moment.score, *moment.span, *moment.window]
                assert {type(number) for number in numbers} <= {int, float}
                assert type(answer.vid) is str
                json.dumps(dataclasses.asdict(moment))


# ruff: noqa: ARG005 - every call takes the same three


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda p, v, q: p.ground(q, v), "videos: got a EncodedQuery, expected what encode_video gives"),
        (lambda p, v, q: p.ground(v, v), "queries: got a EncodedVideo, expected what encode_query gives"),
        (lambda p, v, q: p.ground([v, GOOD], q), "videos: got a ndarray"),
        (lambda p, v, q: p.ground(v, "w001"), "queries: got a str"),
        (lambda p, v, q: p.ground(None, q), "videos: got a NoneType"),
        (lambda p, v, q: p.ground(v, q, durations="30"), "durations: got '30' (str), expected seconds"),
        (lambda p, v, q: p.ground(v, q, durations=True), "durations: got True"),
        (lambda p, v, q: p.ground([v, v], q, durations=[1.0, Thing()]), "durations: got <thing> (Thing)"),
        (lambda p, v, q: p.ground([v, v], q, durations=np.ones(3)), "durations: got 3, expected 2"),
        (lambda p, v, q: p.ground(v, q, top_k=1.5), "top_k: got 1.5 (float), expected a whole number"),
        (lambda p, v, q: p.ground(v, q, top_k=None), "top_k: got None"),
        (lambda p, v, q: p.ground(v, q, nms=float("nan")), "nms: got nan"),
        (lambda p, v, q: p.ground(v, q, nms="x"), "nms: got 'x'"),
        (lambda p, v, q: p.ground(v, q, batch_size=2.0), "batch_size: got 2.0"),
        (lambda p, v, q: p.ground(v, q, pairs=[(0, 0.5)]), "pairs: got 0.5"),
        (lambda p, v, q: p.ground(v, q, pairs=[(0,)]), "pairs: got (0,)"),
        (lambda p, v, q: p.ground(v, q, pairs=[3]), "pairs: got 3"),
        (lambda p, v, q: p.ground(v, q, pairs=5), "pairs: got 5"),
        (lambda p, v, q: p.encode_video(GOOD, vid=7), "vid: got 7 (int), expected text"),
        (lambda p, v, q: p.encode_video([GOOD, GOOD], vid=["a"]), "vid: got 1, expected 2"),
        (lambda p, v, q: p.encode_video([GOOD], vid=np.array([1])), "vid: got 1 (int)"),
        (lambda p, v, q: p.encode_query("w001", qid="7"), "qid: got '7' (str), expected a whole number"),
        (lambda p, v, q: p.encode_query("w001", qid=7.5), "qid: got 7.5"),
        (lambda p, v, q: p.encode_query("w001", batch_size=None), "batch_size: got None"),
    ],
)
def test_wrong_arguments_are_named(predictors, call, told):
    """A swapped or mistyped argument would end in a traceback from deep inside, or in another question's answer."""
    predictor = predictors["tiny_glove"]
    with pytest.raises(InputError) as refused:
        call(predictor, predictor.encode_video(GOOD), predictor.encode_query("w001"))
    assert told in str(refused.value)


def test_encodings_of_another_network_are_refused(predictors, checkpoints, make_bundle, tmp_path):
    """All published networks have D = 128: the encodings of one would be answered by another, wrongly."""
    predictor = predictors["tiny_glove"]
    weights = {name: tensor + 0.01 for name, tensor in checkpoints["tiny_glove"].weights.items()}
    other = load_bundle(make_bundle(tmp_path / "other", checkpoints["tiny_glove"], weights), "torch", threads=1)
    video, query = predictor.encode_video(GOOD, vid="x"), predictor.encode_query("w001")
    for arguments, told in (
        ((video, other.encode_query("w001")), "video 'x'"),
        ((other.encode_video(GOOD), query), "query 'w001'"),
    ):
        with pytest.raises(InputError, match=f"{told}: was encoded by another bundle's network; encode it again"):
            other.ground(*arguments)
    copy = load_bundle(make_bundle(tmp_path / "copy", checkpoints["tiny_glove"]), "torch", threads=1)
    assert copy.ground(video, query).best.span == predictor.ground(video, query).best.span


@pytest.mark.parametrize("output", ["start_logits", "end_logits", "importance", "saliency", "saliency_audio"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pair_without_a_number_is_named(predictors, output, value):
    """One pair of an fp16 network that overflows would stop a run of thousands, or be given as an answer."""
    predictor = predictors["tiny_glove"]
    run = predictor.choice.backend.run

    def overflowing(graph, feeds):
        out = run(graph, feeds)
        if output in out:
            out[output][1] = value
        return out

    broken = Predictor(predictor.bundle, predictor.rules, Choice(SimpleNamespace(run=overflowing), "a test"))
    sound = np.ones((5, 20), np.float32)
    videos = broken.encode_video([GOOD, GOOD + 1, GOOD + 2], [sound] * 3, vid=["a", "b", "c"])
    query = broken.encode_query("w001")
    good, bad, also_good = broken.ground_each([(video, query, None) for video in videos])
    assert (good.vid, also_good.vid) == ("a", "c")
    assert "b, query 'w001': got features too large for the network" in str(bad)
    with pytest.raises(FeatureError, match="b, query 'w001'"):
        broken.ground(videos, query)


def change_manifest(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": {}}, "video features None, but the network takes width 24"),
        ({"features": {"video": {"name": "i3d", "width": 1024}, "audio": {"name": "x", "width": 20}}}, "i3d"),
        ({"limits": {"clips": 17, "words": 128, "chars": 128}}, "limit of 17 clips, but the network takes 16"),
        ({"limits": {"clips": 0, "words": 128, "chars": 128}}, r"limits.clips: Input should be greater than 0"),
        ({"schema": 99}, "schema 99"),
    ],
)
def test_bundle_that_contradicts_itself(bundles, tmp_path, changes, told):
    """A bundle edited by hand would fail in the middle of a run, or answer with the wrong inputs."""
    folder = Path(shutil.copytree(bundles["tiny_glove"], tmp_path / "bundle"))
    change_manifest(folder, **changes)
    with pytest.raises(BundleError) as refused:
        load_bundle(folder, "torch")
    assert told in str(refused.value)


def test_bundle_without_its_vocabulary(checkpoints, make_bundle, tmp_path):
    """A GloVe bundle without words would take every word for unknown."""
    bare = dataclasses.replace(checkpoints["tiny_glove"], vocabulary=None)
    with pytest.raises(BundleError, match="no vocabulary"):
        load_bundle(make_bundle(tmp_path / "bare", bare))
    other = dataclasses.replace(checkpoints["tiny_glove"], vocabulary=Vocabulary(["a"], np.ones((1, 300), "f4"), "ab"))
    with pytest.raises(BundleError, match="vocabulary of 4 characters"):
        load_bundle(make_bundle(tmp_path / "other", other))


def test_weights_that_do_not_fit(checkpoints, make_bundle, tmp_path):
    """Weights of another network would be loaded in part."""
    weights = dict(checkpoints["tiny_vlm"].weights)
    weights.pop(next(iter(weights)))
    folder = make_bundle(tmp_path / "short", checkpoints["tiny_vlm"], weights)
    with pytest.raises(BundleError, match="missing tensor"):
        load_bundle(folder, "torch")
    (folder / "weights.safetensors").write_bytes(b"12345")
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(folder, "torch")


def test_closed_engine(bundles):
    """A closed predictor would answer from memory that it gave back."""
    predictor = load_bundle(bundles["tiny_vlm"], "torch")
    predictor.close()
    with pytest.raises(BackendError, match="was closed"):
        predictor.encode_video(GOOD)
