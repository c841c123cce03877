"""Answers through the Python API: they depend on their own video and query alone, and bad input is told."""

import dataclasses
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from img_deploy.errors import BackendError, BundleError, FeatureError, InputError, QueryError
from img_deploy.features import open_folder
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.encoded import Query
from img_deploy.runtime.predictor import Predictor, load_bundle
from img_deploy.text.vocabulary import EncodedWords, Vocabulary

TORCH_TOLERANCE = 3e-5
ROUNDING = 1e-5
"""Of one computation done twice: how CPU kernels split their sums among threads depends on the machine's load."""
TOLERANCE = {"torch": TORCH_TOLERANCE, "onnxruntime": 1e-4}
RUNS = ("tiny_glove", "tiny_vlm")
PREDICTORS = (("torch", "tiny_glove"), ("torch", "tiny_vlm"), ("onnxruntime", "tiny_glove"))


@dataclasses.dataclass
class Recorder:
    """A backend that keeps the logits of every pair it grounds."""

    inner: object

    def __post_init__(self):
        self.name, self.device, self.precision = self.inner.name, self.inner.device, self.inner.precision
        self.logits = []

    def run(self, graph, feeds):
        out = self.inner.run(graph, feeds)
        if "start_logits" in out:
            for row, mask in enumerate(feeds["clip_mask"]):
                clips, words = int(mask.sum()), int(feeds["word_mask"][row].sum())
                pair = feeds["visual_clips"][row, :clips], feeds["visual_words"][row, :words]
                self.logits.append((*pair, np.stack([out[f"{end}_logits"][row, :clips] for end in ("start", "end")])))
        return out

    def of(self, video, query):
        """[2, L] logits of a pair."""
        (found,) = [
            logits
            for clips, words, logits in self.logits
            if np.array_equal(clips, video.visual_clips) and np.array_equal(words, query.visual_words)
        ]
        return found

    def close(self):
        self.inner.close()


@pytest.fixture(scope="module")
def predictors(bundles):
    """The small bundles on the torch backend."""
    return {name: load_bundle(bundles[name], "torch", threads=1) for name in RUNS}


@pytest.fixture(scope="module")
def predictor_of(predictors, exported):
    """Function: the predictor of a backend and a small run."""
    made = {("torch", name): predictor for name, predictor in predictors.items()}

    def get(backend, name):
        if (backend, name) not in made:
            made[backend, name] = load_bundle(exported(name), backend, threads=2)
        return made[backend, name]

    return get


def close(one, other):
    """The same numbers, but for the order in which they were summed."""
    np.testing.assert_allclose(one, other, atol=ROUNDING, rtol=0)


def recording(predictor):
    recorder = Recorder(predictor.choice.backend)
    return Predictor(predictor.bundle, predictor.rules, Choice(recorder, "a test")), recorder


def draw_video(predictor, clips, sound, seed):
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((clips, predictor.rules.video.width), dtype=np.float32)
    audio = rng.standard_normal((max(1, clips + seed % 5 - 2), predictor.rules.audio.width), dtype=np.float32)
    return video, audio if sound else None


def draw_query(predictor, words, seed):
    rng = np.random.default_rng(seed)
    if predictor.rules.text is not None:
        return rng.standard_normal((words, predictor.rules.text.width), dtype=np.float32)
    return " ".join(rng.choice([*predictor.vocabulary.words, "zebra", "b", "unheardofandlong"], words))


samples = st.lists(
    st.tuples(st.integers(1, 128), st.booleans(), st.integers(1, 40), st.integers(0, 999)), min_size=1, max_size=7
)


@pytest.mark.parametrize(("backend", "name"), PREDICTORS)
@given(drawn=samples, batch_size=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_neighbours_in_the_batch_change_no_answer(predictor_of, backend, name, drawn, batch_size):
    """A video's answer would depend on which other videos and queries are asked in the same call."""
    predictor, tolerance = predictor_of(backend, name), TOLERANCE[backend]
    videos = [draw_video(predictor, clips, sound, seed) for clips, sound, _, seed in drawn]
    texts = [draw_query(predictor, words, seed) for _, _, words, seed in drawn]
    together, recorded = recording(predictor)
    encoded = together.encode_video([v for v, _ in videos], [a for _, a in videos], batch_size=batch_size)
    queries = together.encode_query(texts, batch_size=batch_size)
    answers = together.ground(encoded, queries, batch_size=batch_size)
    for (clips, audio), text, video, query, answer in zip(videos, texts, encoded, queries, answers, strict=True):
        alone, recorded_alone = recording(predictor)
        own_video, own_query = alone.encode_video(clips, audio), alone.encode_query(text)
        own = alone.ground(own_video, own_query)
        logits, expected = recorded.of(video, query), recorded_alone.of(own_video, own_query)
        np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)
        assert answer.head == own.head == ("visual" if audio is None else "fused")
        np.testing.assert_allclose(answer.saliency, own.saliency, atol=tolerance, rtol=0)
        same_span(answer.best.span, own.best.span, expected, tolerance)


def same_span(span, expected_span, logits, tolerance):
    """Spans are identical, except where two of them are as good as each other."""
    (i, j), (k, m) = span, expected_span
    assert span == expected_span or logits[0, k] + logits[1, m] - logits[0, i] - logits[1, j] < 4 * tolerance


@pytest.mark.parametrize("name", RUNS)
def test_recorded_cases(checkpoints, golden, make_bundle, tmp_path, name):
    """The predictor would feed the network something else than what was recorded (order of inputs, head, noise)."""
    cases = [load_file(path) for path in sorted((golden / name).glob("case_*.safetensors"))]
    assert cases
    for number, case in enumerate(cases):
        noise = torch.cat([case["in.noise_video"], case["in.noise_audio"]])
        weights = checkpoints[name].weights
        (key,) = [key for key in weights if key.endswith("slot_attention.noise")]
        folder = make_bundle(tmp_path / str(number), checkpoints[name], weights | {key: noise})
        predictor, recorder = recording(load_bundle(folder, "torch", threads=1))
        query = predictor.encode_query(recorded_query(predictor, case))
        for letters, audio in (("av", case["in.audio"][0].numpy()), ("v", None)):
            video = predictor.encode_video(case["in.video"][0].numpy(), audio)
            answer = predictor.ground(video, query)
            expected = np.stack([case[f"out.{end}_{letters}"][0].numpy() for end in ("start", "end")])
            np.testing.assert_allclose(recorder.of(video, query), expected, atol=TORCH_TOLERANCE, rtol=0)
            np.testing.assert_allclose(answer.saliency, case[f"out.saliency_{letters}"][0], atol=TORCH_TOLERANCE)
            recorder.logits.clear()
            if audio is not None:
                assert answer.best.span == tuple(case["out.span"].flatten().tolist())
                assert answer.importance == pytest.approx(float(case["out.importance"]), abs=TORCH_TOLERANCE)


def recorded_query(predictor, case):
    if "in.text" in case:
        return case["in.text"][0].numpy()
    ids = case["in.word_ids"][0].numpy()
    vectors = np.concatenate([np.zeros((2, 300), np.float32), predictor.vocabulary.vectors])[ids]
    return Query("recorded", content=EncodedWords(vectors, ids == 1, case["in.char_ids"][0].numpy(), ()))


def test_folder_and_arrays_agree(predictors, features):
    """Features given as arrays would be down-sampled or aligned otherwise than the same features in a folder."""
    predictor = predictors["tiny_glove"]
    folder = open_folder(
        features.folder, predictor.rules.video, predictor.rules.audio, max_clips=predictor.rules.max_clips
    )
    for vid in folder.videos():
        loaded = folder.load(vid)
        sound = features.folder / "audio" / f"{vid}.npy"
        video = np.load(features.folder / "video" / f"{vid}.npy")
        by_array = predictor.encode_video(video, np.load(sound) if sound.exists() else None)
        by_folder = predictor.encode_video(loaded.video, loaded.audio)
        close(by_array.visual_clips, by_folder.visual_clips)
        assert by_array.source_clips == len(video)
        assert (by_array.audio_clips is None) == (by_folder.audio_clips is None) == (not sound.exists())
        if sound.exists():
            close(by_array.audio_clips, by_folder.audio_clips)


def test_lists_and_broadcasting(predictors):
    """A caller would get another answer than the pair it asked about, or another order."""
    predictor = predictors["tiny_glove"]
    drawn = [draw_video(predictor, clips, sound, clips) for clips, sound in ((9, True), (4, False), (13, True))]
    videos = predictor.encode_video([v for v, _ in drawn], [a for _, a in drawn], vid=["x", "y", "z"])
    queries = predictor.encode_query(["w001 w002", "w003", "w004 w005 w006"], qid=[7, 8, 9])
    one_by_one = predictor.ground(videos, queries, durations=[10.0, None, 30.0])
    assert [(a.vid, a.qid) for a in one_by_one] == [("x", 7), ("y", 8), ("z", 9)]
    assert [a.duration for a in one_by_one] == [10.0, None, 30.0]
    assert one_by_one[1].best.window is None
    assert one_by_one[2].best.window == pytest.approx([30.0 * f for f in one_by_one[2].best.fraction])
    assert [(a.vid, a.qid) for a in predictor.ground(videos, queries[0])] == [("x", 7), ("y", 7), ("z", 7)]
    assert [(a.vid, a.qid) for a in predictor.ground(videos[1], queries)] == [("y", 7), ("y", 8), ("y", 9)]
    pairs = [(2, 0), (1, 2), (2, 0), (0, 1)]
    chosen = predictor.ground(videos, queries, pairs=pairs)
    assert [(a.vid, a.qid) for a in chosen] == [("z", 7), ("y", 9), ("z", 7), ("x", 8)]
    single = predictor.ground(videos[2], queries[0], durations=30.0)
    assert (single.vid, single.qid, single.query) == ("z", 7, "w001 w002")
    assert chosen[0].best.span == single.best.span
    assert predictor.ground([], queries[0]) == []
    assert predictor.encode_video([]) == predictor.encode_query([]) == []


def test_top_k(predictors):
    """``top_k`` would change the best moment, or give moments that overlap more than asked."""
    predictor = predictors["tiny_glove"]
    video = predictor.encode_video(*draw_video(predictor, 16, True, 1))
    query = predictor.encode_query("w001 w002")
    best = predictor.ground(video, query)
    several = predictor.ground(video, query, top_k=3, nms=0.0)
    assert len(best.moments) == 1
    assert several.moments[0] == best.moments[0]
    spans = sorted(moment.span for moment in several.moments)
    assert len(spans) == 3
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_unknown_words_are_recorded(predictors):
    """A query of words that the network never saw would be answered as if it were understood."""
    predictor = predictors["tiny_glove"]
    some, none, all_known = predictor.encode_query(["w001 zebra", "zebra unicorn zebra", "w001"])
    assert (some.unknown, some.all_unknown) == (("zebra",), False)
    assert (none.unknown, none.all_unknown) == (("zebra", "unicorn"), True)
    assert (all_known.unknown, all_known.all_unknown) == ((), False)


def test_wider_vocabulary(predictors):
    """A GloVe file would not make its words known, or would change the answers of known words."""
    predictor = predictors["tiny_glove"]
    old = predictor.vocabulary
    rows = np.concatenate([old.vectors, np.ones((1, 300), np.float32)])
    wide = predictor.with_vocabulary(Vocabulary([*old.words, "zebra"], rows, old.chars))
    assert wide.encode_query("zebra w001").unknown == ()
    assert predictor.encode_query("zebra w001").unknown == ("zebra",)
    close(wide.encode_query("w001").visual_words, predictor.encode_query("w001").visual_words)


@given(drawn=samples)
@settings(max_examples=8, deadline=None)
def test_backends_agree(predictor_of, drawn):
    """The exported graphs would answer otherwise than the network they were made from."""
    predictors = [predictor_of(backend, "tiny_glove") for backend in ("torch", "onnxruntime")]
    answers, logits = [], []
    for predictor in predictors:
        recorded, recorder = recording(predictor)
        videos = [draw_video(predictor, clips, sound, seed) for clips, sound, _, seed in drawn]
        encoded = recorded.encode_video([v for v, _ in videos], [a for _, a in videos])
        queries = recorded.encode_query([draw_query(predictor, words, seed) for _, _, words, seed in drawn])
        answers.append(recorded.ground(encoded, queries))
        logits.append([recorder.of(video, query) for video, query in zip(encoded, queries, strict=True)])
    for mine, other, my_logits, other_logits in zip(*answers, *logits, strict=True):
        np.testing.assert_allclose(my_logits, other_logits, atol=1e-4, rtol=0)
        assert mine.head == other.head
        assert mine.importance == pytest.approx(other.importance, abs=1e-4)
        same_span(mine.best.span, other.best.span, other_logits, 1e-4)


@pytest.mark.parametrize(("backend", "name"), PREDICTORS)
def test_threads_give_the_same_answers(predictor_of, backend, name):
    """A product that serves from several threads would mix up their answers."""
    predictor = predictor_of(backend, name)
    tasks = [
        (draw_video(predictor, 3 + seed, seed % 3 > 0, seed), draw_query(predictor, 2 + seed, seed))
        for seed in range(6)
    ]

    def answer(task):
        (video, audio), text = task
        return predictor.ground(predictor.encode_video(video, audio), predictor.encode_query(text), top_k=2)

    expected = [answer(task) for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answer, tasks * 3))
    for number, one in enumerate(found):
        own = expected[number % len(tasks)]
        assert [moment.span for moment in one.moments] == [moment.span for moment in own.moments]
        assert (one.query, one.head, one.clips) == (own.query, own.head, own.clips)
        scores = [[moment.score for moment in answer.moments] for answer in (one, own)]
        close(*scores)
        assert one.importance == pytest.approx(own.importance, abs=ROUNDING)
        close(one.saliency, own.saliency)


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

    class Overflowing(Recorder):
        def run(self, graph, feeds):
            out = run(graph, feeds)
            if output in out:
                out[output][1] = value
            return out

    broken = Predictor(predictor.bundle, predictor.rules, Choice(Overflowing(predictor.choice.backend), "a test"))
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
