"""Answers through the Python API: they depend on their own video and query alone."""

import dataclasses
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from img_deploy.features import open_folder
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.backends.protocol import on_host
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
                pair = (on_host(feeds[f"visual_{kind}"][row])[:n] for kind, n in (("clips", clips), ("words", words)))
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


def test_encodings_stay_where_they_were_computed_and_travel_in_host_memory(predictors):
    """Each answer copies its clips to the device again; or another process gets memory of a device it has not."""
    predictor = predictors["tiny_glove"]
    for sound in (True, False):
        video, query = predictor.encode_video(*draw_video(predictor, 9, sound, 1)), predictor.encode_query("w001 w002")
        assert isinstance(video.visual, torch.Tensor)
        assert isinstance(query.audio, torch.Tensor)
        sent, asked = pickle.loads(pickle.dumps((video, query)))
        for one in (sent.visual, sent.audio, asked.visual, asked.audio, video.visual_clips, query.audio_words):
            assert type(one) is np.ndarray or (one is None and not sound)
        assert (sent.vid, sent.clips, asked.words) == (video.vid, 9, 2)
        assert predictor.ground(sent, asked).to_row() == predictor.ground(video, query).to_row()


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
