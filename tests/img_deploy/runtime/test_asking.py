"""Many queries over a folder: every pair once, every video read and encoded once, and little in memory."""

import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.features import open_folder
from img_deploy.runtime.asking import Session, open_session
from img_deploy.runtime.encoded import Query
from img_deploy.runtime.lots import AskOptions, Listener, LotAnswerer, Request
from img_deploy.runtime.predictor import load_bundle
from img_deploy.runtime.queries import Plan
from img_deploy.runtime.workers import ThisProcess

QUERIES = (Query("w001 w002"), Query("w003 w004 w005 w006 zebra"), Query("w007"))


@pytest.fixture
def folder(features, predictor):
    for number in range(8):
        features.add(f"V{number}", 1 + 3 * number, sound=number % 3 > 0)
    rules = predictor.rules
    return open_folder(features.folder, rules.video, rules.audio, max_clips=rules.max_clips)


def ask(predictor, folder, plan, batch_size=16, done=frozenset(), listener=None, threads=1):
    """Answers to a plan, two seconds a clip."""
    request = Request(folder.path, clip_seconds=2.0, options=AskOptions(batch_size=batch_size))
    return Session(request, folder, plan, {}, ThisProcess(predictor, threads)).answers(done, listener)


def rows(lots):
    return [answer.to_row() for lot in lots for answer in lot]


def keys(plan):
    return [(vid, query.qid, query.sentence) for vid in plan.videos for query in plan.queries(vid)]


@given(batch_size=st.integers(1, 5))
@settings(max_examples=5, deadline=None)
def test_answers_do_not_depend_on_batches(predictor, folder, batch_size, ears):
    """A pair would be lost, repeated, moved, or answered otherwise when the batch size changes."""
    plan = Plan(tuple(folder.videos()), QUERIES[:2])
    expected = rows(ask(predictor, folder, plan))
    heard = ears()
    found = rows(ask(predictor, folder, plan, batch_size, listener=heard))
    assert [(r["vid"], r["qid"], r["query"]) for r in found] == keys(plan)
    assert heard.pairs == len(plan)
    for one, other in zip(found, expected, strict=True):
        assert (one["spans"], one["head"], one["duration"]) == (other["spans"], other["head"], other["duration"])
        assert one["pred_relevant_windows"][0] == pytest.approx(other["pred_relevant_windows"][0], abs=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_video_is_read_and_encoded_once(predictor, folder, monkeypatch, threads):
    """Three queries of each of 20,000 videos would take three times the time."""
    loads, encoded = [], []
    load, encode = folder.load, predictor.encode_features
    monkeypatch.setattr(folder, "load", lambda vid: loads.append(vid) or load(vid))
    monkeypatch.setattr(
        predictor, "encode_features", lambda v, *a: encoded.extend(one.vid for one in v) or encode(v, *a)
    )
    prepare = LotAnswerer._encode_queries

    def late(answerer, lot, out):
        if lot.pairs[0][1] == 4:
            time.sleep(0.03)  # a lot in four: other threads are at the next videos by then
        return prepare(answerer, lot, out)

    monkeypatch.setattr(LotAnswerer, "_encode_queries", late)
    plan = Plan(tuple(folder.videos()), tuple(Query(f"w{number:03d}") for number in range(15)))
    assert len(rows(ask(predictor, folder, plan, 1, threads=threads))) == 15 * len(plan.videos)  # 4 lots each
    assert sorted(loads) == sorted(encoded) == sorted(plan.videos)


@pytest.mark.parametrize("threads", [2, 3])
def test_answers_of_several_threads_are_those_of_one(predictor, folder, threads):
    """Rows would come in another order, or of another video's clips, where threads share what one of them holds."""
    plan = Plan(tuple(folder.videos()), QUERIES)
    found = ask(predictor, folder, plan, batch_size=2, threads=threads)
    assert rows(found) == rows(ask(predictor, folder, plan, batch_size=2))


@pytest.mark.parametrize("threads", [1, 3])
def test_each_shared_query_is_encoded_once(predictor, folder, monkeypatch, threads):
    """A sentence would be encoded again for each of 20,000 videos."""
    encoded = []
    encode = predictor.encode_prepared
    monkeypatch.setattr(
        predictor, "encode_prepared", lambda q, *a: encoded.extend(o.sentence for o in q) or encode(q, *a)
    )
    queries = tuple(Query(f"w{number:03d}") for number in range(11))
    found = ask(predictor, folder, Plan(tuple(folder.videos()), queries), 2, threads=threads)
    assert len(rows(found)) == 11 * len(folder)
    assert sorted(encoded) == [query.sentence for query in queries]


def test_a_batch_is_held_and_no_more(predictor, folder, monkeypatch):
    """A folder of 20,000 videos would fill the memory."""
    alive, most = weakref.WeakSet(), 0
    encode = predictor.encode_features

    def watch(*arguments):
        nonlocal most
        made = encode(*arguments)
        alive.update(made)
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(predictor, "encode_features", watch)
    plan = Plan(tuple(folder.videos()), QUERIES[:1])
    assert sum(len(lot) for lot in ask(predictor, folder, plan, batch_size=1)) == 14
    assert most <= 2


def test_first_answers_come_before_the_last_videos_are_read(predictor, folder, monkeypatch):
    """A kill would lose a minute of work, and a person would wait as long for the first row."""
    loads = []
    load = folder.load
    monkeypatch.setattr(folder, "load", lambda vid: loads.append(vid) or load(vid))
    answers = ask(predictor, folder, Plan(tuple(folder.videos()), QUERIES), batch_size=2)
    first = next(answers)
    assert len(loads) == 2
    assert {answer.vid for answer in first} == {folder.videos()[0]}
    answers.close()


def test_what_cannot_be_used_is_told_and_left_out(predictor, features, folder, ears):
    """One bad file among thousands would end the run, take others with it, or vanish without a word."""
    bad = features.draw(6, 24)
    bad[4, 2] = np.nan
    features.put("video/B.npy", bad)
    features.put("video/C.npy", b"")
    features.put("audio/D.npy", b"\x93NUMPY cut short")
    features.put("video/E.npy", np.full((4, 24), 3e38, np.float32))
    features.put("video/F.npy", features.draw(4, 7))
    plan = Plan(("A", "B", "C", "D", "E", "F", "V1"), (QUERIES[0], Query("x" * 500), Query("unicorn zebra")))
    heard = ears()
    found = rows(ask(predictor, folder, plan, 4, listener=heard))
    alone = rows(ask(predictor, folder, Plan(("A", "V1"), (QUERIES[0],))))
    assert [(r["vid"], r["query"]) for r in found] == [
        (vid, query) for vid in ("A", "V1") for query in (QUERIES[0].sentence, "unicorn zebra")
    ]
    assert [r["spans"] for r in found if r["query"] == QUERIES[0].sentence] == [r["spans"] for r in alone]
    assert heard.pairs == len(plan)
    assert heard.unknowns == ["unicorn", "zebra"]
    told = [
        "a word of 500 characters",
        "B.npy: got NaN",
        "C.npy: got an empty",
        "D.npy",
        "E: got features too large",
        "F.npy: got width 7",
    ]
    for text in told:
        assert sum(text in error for error in heard.errors) == 1, text
    assert len(heard.errors) == len(told)


def test_going_on_gives_the_very_same_rows(predictor, features, folder, ears):
    """A resumed run would repeat rows, lose some, or differ from the run it continues."""
    features.put("video/V2.npy", b"")
    plan = Plan(tuple(folder.videos()), QUERIES[:2])
    whole = rows(ask(predictor, folder, plan, 2))
    written = [(row["vid"], row["qid"], row["query"]) for row in whole]
    for stop in (0, 1, 5, 8, 13, len(whole)):
        heard = ears()
        rest = rows(ask(predictor, folder, plan, 2, frozenset(written[:stop]), heard))
        assert rest == whole[stop:]
        assert heard.pairs == len(plan) - stop
        assert len(heard.errors) == 1


def test_what_is_done_is_not_computed_again(predictor, features, folder, monkeypatch):
    """Resuming would take as long as starting over: also where the interrupted run left out bad files."""
    features.put("video/V2.npy", b"")
    plan = Plan(tuple(folder.videos()), QUERIES[:2])
    done = frozenset((row["vid"], row["qid"], row["query"]) for row in rows(ask(predictor, folder, plan, 2)))
    ran = []
    run = predictor._run
    monkeypatch.setattr(predictor, "_run", lambda graph, feeds: ran.append(graph) or run(graph, feeds))
    assert rows(ask(predictor, folder, plan, 2, done)) == []
    assert ran == []
    features.add("V2", 5)
    late = rows(ask(predictor, folder, plan, 2, done))
    assert [row["vid"] for row in late] == ["V2", "V2"]


def test_nothing_is_computed_for_refused_queries(predictor, folder, monkeypatch, ears):
    """Thousands of videos would be read and encoded for a query that cannot be asked."""
    monkeypatch.setattr(predictor, "encode_features", None)
    heard = ears()
    plan = Plan(tuple(folder.videos()), (Query("x" * 500),))
    assert rows(ask(predictor, folder, plan, listener=heard)) == []
    assert (heard.pairs, len(heard.errors)) == (len(plan), 1)


def test_a_resumed_run_has_to_share_what_its_answers_depend_on(bundles, features, tmp_path):
    """Rows of two overlaps, ranks, queries, folders or vocabularies would stand in one file."""
    base = {"features": features.folder, "bundle": bundles["tiny_glove"], "backend": "torch", "queries": ["w001"]}
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("A,3.5\n")
    glove = tmp_path / "glove.txt"
    glove.write_text("zebra " + " ".join(["0.5"] * 300) + "\n")
    other = tmp_path / "other"
    other.symlink_to(features.folder)
    first = open_session(Request(**base)).settings()
    for change in (
        {"options": AskOptions(nms=0.3)},
        {"options": AskOptions(top_k=2)},
        {"queries": ["w002"]},
        {"durations": lengths},
        {"clip_seconds": 2.0},
        {"glove": glove},
    ):
        assert open_session(Request(**base | change)).settings() != first, change
    same = {"options": AskOptions(batch_size=3), "features": other, "threads": 1}
    assert open_session(Request(**base | same)).settings() == first


def test_each_row_has_its_own_duration(bundles, features, write_lines):
    """Where the rows of a video disagree, every moment would be in the seconds of the first."""
    lines = [{"qid": n, "vid": "B", "query": "w001", "duration": seconds} for n, seconds in enumerate((10.0, 30.0))]
    file = write_lines("x.jsonl", *lines, {"qid": 2, "vid": "B", "query": "w001"})
    request = Request(features.folder, bundles["tiny_glove"], queries_file=file, backend="torch", clip_seconds=2.0)
    found = [answer for lot in open_session(request).answers() for answer in lot]
    assert [answer.duration for answer in found] == [10.0, 30.0, 40.0]
    assert len({answer.best.fraction for answer in found}) == 1


def test_a_listener_can_stop_the_run(predictor, features, folder):
    """--strict would go on."""
    features.put("video/A.npy", b"")

    class Strict(Listener):
        def skipped(self, error):
            raise error

    with pytest.raises(Exception, match=r"A\.npy: got an empty file"):
        list(ask(predictor, folder, Plan(("A", "B"), QUERIES), listener=Strict()))


def test_token_features_are_found_by_id(bundles, features, ears):
    """A query would be answered from another query's features."""
    predictor = load_bundle(bundles["tiny_vlm"], "torch", threads=1)
    for qid in (3, 4):
        features.put(f"text/{qid}.npy", features.draw(qid, 18))
    rules = predictor.rules
    folder = open_folder(features.folder, rules.video, rules.audio, rules.text, rules.max_clips)
    own = {"A": (Query("sits", 3), Query("gone", 9)), "B": (Query("runs", 4),)}
    heard = ears()
    found = [answer for lot in ask(predictor, folder, Plan(("A", "B"), own=own), listener=heard) for answer in lot]
    assert [(a.vid, a.qid, a.query) for a in found] == [("A", 3, "sits"), ("B", 4, "runs")]
    assert len(heard.errors) == 1
    assert "no text features for query 9" in heard.errors[0]
    video = folder.load("B")
    expected = predictor.ground(
        predictor.encode_video(video.video, video.audio), predictor.encode_query(folder.load_text(4))
    )
    np.testing.assert_allclose(found[1].saliency, expected.saliency, atol=3e-5)
