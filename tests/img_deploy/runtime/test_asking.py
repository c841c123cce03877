"""Many questions over a folder: every pair once, every video read and encoded once, and little in memory."""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.features import open_folder
from img_deploy.runtime import asking
from img_deploy.runtime.asking import AskOptions, Listener, ask
from img_deploy.runtime.engine import load_bundle
from img_deploy.runtime.questions import Plan, Question

QUESTIONS = (Question("w001 w002"), Question("w003 w004 w005 w006 zebra"), Question("w007"))


@pytest.fixture(scope="module")
def engine(bundles):
    return load_bundle(bundles["tiny_glove"], "torch", threads=1)


@pytest.fixture
def folder(features, engine):
    for number in range(8):
        features.add(f"V{number}", 1 + 3 * number, sound=number % 3 > 0)
    return open_folder(features.folder, engine.rules.video, engine.rules.audio, max_clips=engine.rules.max_clips)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of two batches and chunks of one."""
    monkeypatch.setattr(asking, "WINDOW", 2)
    monkeypatch.setattr(asking, "CHUNK", 1)


class Ears(Listener):
    def __init__(self):
        self.errors, self.unknowns, self.pairs = [], [], 0

    def skipped(self, error):
        self.errors.append(str(error))

    def unknown(self, query):
        self.unknowns.append(query.unknown)

    def settled(self, pairs):
        self.pairs += pairs


def rows(lots):
    return [answer.to_row() for lot in lots for answer in lot]


def two_seconds_a_clip(_vid, clips):
    return 2.0 * clips


def keys(plan):
    return [(vid, question.qid, question.query) for vid, question in plan]


@given(batch_size=st.integers(1, 5), window=st.integers(1, 3), chunk=st.integers(1, 3))
@settings(max_examples=5, deadline=None)
def test_answers_do_not_depend_on_batches(engine, folder, monkeypatch, batch_size, window, chunk):
    """A pair would be lost, repeated, or answered otherwise when the batch size changes."""
    plan = Plan(tuple(folder.videos()), QUESTIONS[:2])
    expected = rows(ask(engine, folder, plan, two_seconds_a_clip))
    monkeypatch.setattr(asking, "WINDOW", window)
    monkeypatch.setattr(asking, "CHUNK", chunk)
    ears = Ears()
    found = rows(ask(engine, folder, plan, two_seconds_a_clip, AskOptions(batch_size=batch_size), listener=ears))
    assert [(r["vid"], r["qid"], r["query"]) for r in found] == keys(plan)
    assert ears.pairs == len(plan)
    for one, other in zip(found, expected, strict=True):
        assert (one["spans"], one["head"], one["duration"]) == (other["spans"], other["head"], other["duration"])
        assert one["pred_relevant_windows"][0] == pytest.approx(other["pred_relevant_windows"][0], abs=1e-4)


@pytest.mark.usefixtures("small_windows")
def test_each_video_is_read_and_encoded_once(engine, folder, monkeypatch):
    """Three questions of each of 20,000 videos would take three times the time."""
    loads, encoded = [], []
    load, encode = folder.load, engine.encode_video
    monkeypatch.setattr(folder, "load", lambda vid: loads.append(vid) or load(vid))
    monkeypatch.setattr(engine, "encode_video", lambda *a, **k: encoded.extend(k["vid"]) or encode(*a, **k))
    plan = Plan(tuple(folder.videos()), QUESTIONS)
    assert len(rows(ask(engine, folder, plan, options=AskOptions(batch_size=3)))) == 3 * len(plan.videos)
    assert sorted(loads) == sorted(encoded) == sorted(plan.videos)


@pytest.mark.usefixtures("small_windows")
def test_only_a_window_is_held(engine, folder, monkeypatch):
    """A folder of 20,000 videos would fill the memory."""
    alive, most = weakref.WeakSet(), 0
    encode = engine.encode_video

    def watch(*arguments, **options):
        nonlocal most
        made = encode(*arguments, **options)
        alive.update(made)
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(engine, "encode_video", watch)
    plan = Plan(tuple(folder.videos()), QUESTIONS[:1])
    lots = ask(engine, folder, plan, options=AskOptions(batch_size=1))
    assert sum(len(lot) for lot in lots) == 14
    assert most <= 2 * asking.WINDOW


def test_what_cannot_be_used_is_told_and_left_out(engine, features, folder):
    """One bad file among thousands would end the run, take others with it, or vanish without a word."""
    bad = features.draw(6, 24)
    bad[4, 2] = np.nan
    features.put("video/B.npy", bad)
    features.put("video/C.npy", b"")
    features.put("audio/D.npy", b"\x93NUMPY cut short")
    features.put("video/E.npy", np.full((4, 24), 3e38, np.float32))
    features.put("video/F.npy", features.draw(4, 7))
    plan = Plan(
        ("A", "B", "C", "D", "E", "F", "V1"), (QUESTIONS[0], Question("word " * 300), Question("unicorn zebra"))
    )
    ears = Ears()
    found = rows(ask(engine, folder, plan, options=AskOptions(batch_size=4), listener=ears))
    alone = rows(ask(engine, folder, Plan(("A", "V1"), (QUESTIONS[0],))))
    assert [(r["vid"], r["query"]) for r in found] == [
        (vid, query) for vid in ("A", "V1") for query in (QUESTIONS[0].query, "unicorn zebra")
    ]
    assert [r["spans"] for r in found if r["query"] == QUESTIONS[0].query] == [r["spans"] for r in alone]
    assert ears.pairs == len(plan)
    assert ears.unknowns == [("unicorn", "zebra")]
    told = [
        "300 words",
        "B.npy: got NaN",
        "C.npy: got an empty",
        "D.npy",
        "E: got features too large",
        "F.npy: got width 7",
    ]
    for text in told:
        assert sum(text in error for error in ears.errors) == 1, text
    assert len(ears.errors) == len(told)


@pytest.mark.usefixtures("small_windows")
def test_going_on_gives_the_very_same_rows(engine, features, folder):
    """A resumed run would repeat rows, lose some, or differ from the run it continues."""
    features.put("video/V2.npy", b"")
    plan = Plan(tuple(folder.videos()), QUESTIONS[:2])
    options = AskOptions(batch_size=2)
    whole = rows(ask(engine, folder, plan, options=options))
    written = [(row["vid"], row["qid"], row["query"]) for row in whole]
    for stop in (0, 1, 5, 8, 13, len(whole)):
        ears = Ears()
        rest = rows(ask(engine, folder, plan, options=options, done=frozenset(written[:stop]), listener=ears))
        assert rest == whole[stop:]
        assert ears.pairs == len(plan) - stop
        assert len(ears.errors) == 1


@pytest.mark.usefixtures("small_windows")
def test_what_is_done_is_not_computed_again(engine, features, folder, monkeypatch):
    """Resuming would take as long as starting over: also where the interrupted run left out bad files."""
    features.put("video/V2.npy", b"")
    plan = Plan(tuple(folder.videos()), QUESTIONS[:2])
    options = AskOptions(batch_size=2)
    done = frozenset((row["vid"], row["qid"], row["query"]) for row in rows(ask(engine, folder, plan, options=options)))
    ran = []
    run = engine._run
    monkeypatch.setattr(engine, "_run", lambda graph, feeds: ran.append(graph) or run(graph, feeds))
    assert rows(ask(engine, folder, plan, options=options, done=done)) == []
    assert ran == []
    features.add("V2", 5)
    late = rows(ask(engine, folder, plan, options=options, done=done))
    assert [row["vid"] for row in late] == ["V2", "V2"]


def test_nothing_is_computed_for_refused_questions(engine, folder, monkeypatch):
    """Thousands of videos would be read and encoded for a question that cannot be asked."""
    monkeypatch.setattr(engine, "encode_video", None)
    ears = Ears()
    plan = Plan(tuple(folder.videos()), (Question("word " * 300),))
    assert rows(ask(engine, folder, plan, listener=ears)) == []
    assert (ears.pairs, len(ears.errors)) == (len(plan), 1)


def test_a_listener_can_stop_the_run(engine, features, folder):
    """--strict would go on."""
    features.put("video/A.npy", b"")

    class Strict(Listener):
        def skipped(self, error):
            raise error

    with pytest.raises(Exception, match=r"A\.npy: got an empty file"):
        list(ask(engine, folder, Plan(("A", "B"), QUESTIONS), listener=Strict()))


def test_token_features_are_found_by_id(bundles, features):
    """A query would be answered from another query's features."""
    engine = load_bundle(bundles["tiny_vlm"], "torch", threads=1)
    for qid in (3, 4):
        features.put(f"text/{qid}.npy", features.draw(qid, 18))
    rules = engine.rules
    folder = open_folder(features.folder, rules.video, rules.audio, rules.text, rules.max_clips)
    own = {"A": (Question("sits", 3), Question("gone", 9)), "B": (Question("runs", 4),)}
    ears = Ears()
    found = [answer for lot in ask(engine, folder, Plan(("A", "B"), own=own), listener=ears) for answer in lot]
    assert [(a.vid, a.qid, a.query) for a in found] == [("A", 3, "sits"), ("B", 4, "runs")]
    assert len(ears.errors) == 1
    assert "no text features for query 9" in ears.errors[0]
    video = folder.load("B")
    expected = engine.ground(engine.encode_video(video.video, video.audio), engine.encode_query(folder.load_text(4)))
    np.testing.assert_allclose(found[1].saliency, expected.saliency, atol=3e-5)
