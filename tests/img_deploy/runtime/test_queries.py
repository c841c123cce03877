"""Sentences and files laid out over the videos of a folder."""

import pytest

from img_deploy.errors import AnnotationError, FeatureError, InputError, QueryError
from img_deploy.features import FeatureKind, open_folder
from img_deploy.runtime.queries import plan_queries

VIDEO, AUDIO, TEXT = FeatureKind("plain", 24), FeatureKind("plain", 20), FeatureKind("plain", 18)


@pytest.fixture
def folder(features):
    return open_folder(features.folder, VIDEO, AUDIO)


def pairs(plan):
    return [(vid, query.qid, query.sentence) for vid in plan.videos for query in plan.queries(vid)]


def test_sentences_are_asked_of_every_video(folder, write_lines):
    """A query would miss a video, or be asked twice."""
    file = write_lines("queries.txt", "opens a door", "", "sits down", "opens a door")
    plan = plan_queries(folder, ["laughs"], file, ["B", "D", "B"])
    assert pairs(plan) == [(v, None, q) for v in "BD" for q in ("laughs", "opens a door", "sits down")]
    assert len(plan) == 6
    assert plan.notes == ("1 repeated queries are asked once",)
    assert plan_queries(folder, ["laughs"]).videos == tuple("ABCDEF")


def test_annotations_name_their_video(folder, write_lines):
    """A query would be asked of another video than its own, or lose its id or duration."""
    txt = write_lines("x_qid.txt", "B 1.0 2.0##qid_5##sits", "Z 0 1##qid_6##gone", "A 0 2##qid_7##a", "B 0 9##qid_8##b")
    plan = plan_queries(folder, file=txt)
    assert pairs(plan) == [("B", 5, "sits"), ("B", 8, "b"), ("A", 7, "a")]
    assert plan.missing == 1
    assert "1 queries ask about 1 videos without features" in plan.notes[0]
    rows = [{"qid": 3, "query": "sits", "vid": "B", "duration": 12.5}, {"query": "runs", "vid": "A"}]
    plan = plan_queries(folder, file=write_lines("x.jsonl", *rows))
    assert pairs(plan) == [("B", 3, "sits"), ("A", 0, "runs")]
    assert [query.seconds for query in (*plan.queries("B"), *plan.queries("A"))] == [12.5, None]
    assert pairs(plan_queries(folder, file=txt, videos=["A"])) == [("A", 7, "a")]


def test_queries_that_cannot_be_asked_are_counted(folder, write_lines):
    """A row without a sentence would vanish without a word, or stop the run; moments are of no matter."""
    file = write_lines("x_qid.txt", "B 5.0 2.0##qid_5##sits", "A 0 2##qid_7## ", "A -1 -1##qid_8##a")
    plan = plan_queries(folder, file=file)
    assert pairs(plan) == [("B", 5, "sits"), ("A", 8, "a")]
    assert plan.missing == 1
    assert f"{file}:2" in plan.notes[0]


def test_bad_questions(folder, write_lines):
    """A run would begin with nothing to ask, or with half of what was meant."""
    txt = write_lines("x_qid.txt", "B 1.0 2.0##qid_5##sits")
    twice = write_lines("twice.jsonl", *[{"qid": 1, "query": "a", "vid": "A"}] * 2)
    cases = [
        ({}, QueryError, "got none, expected at least one"),
        ({"queries": ["  "]}, QueryError, "got no words"),
        ({"queries": ["sits"], "videos": ["Q"]}, FeatureError, "no features for video 'Q'"),
        ({"queries": ["sits"], "file": txt}, InputError, "--query cannot be mixed in"),
        ({"file": txt, "videos": ["A"]}, InputError, "got no queries about A"),
        ({"file": write_lines("other_qid.txt", "Z 1.0 2.0##qid_5##sits")}, InputError, "without features in"),
        ({"file": write_lines("empty.txt", "")}, AnnotationError, "empty"),
        ({"file": "nowhere.txt"}, AnnotationError, "no such file"),
        ({"file": folder.path}, AnnotationError, "got a directory"),
        ({"file": twice}, AnnotationError, "qid 1 again"),
    ]
    for arguments, error, told in cases:
        with pytest.raises(error) as refused:
            plan_queries(folder, **arguments)
        assert told in str(refused.value)


def test_token_features_need_ids(features, write_lines):
    """Features of another query would be taken for a sentence's own: the numberings of the two files disagree."""
    features.put("text/5.npy", features.draw(4, 18))
    folder = open_folder(features.folder, VIDEO, AUDIO, TEXT)
    for arguments in ({"queries": ["sits"]}, {"file": write_lines("lines.txt", "sits")}, {}):
        with pytest.raises(QueryError, match="expected queries with ids"):
            plan_queries(folder, **arguments)
    rows = [{"qid": 5, "query": "sits", "vid": "B"}, {"query": "runs", "vid": "A"}]
    with pytest.raises(AnnotationError, match=r"x\.jsonl:2: got no qid"):
        plan_queries(folder, file=write_lines("x.jsonl", *rows))
    plan = plan_queries(folder, file=write_lines("x.jsonl", rows[0]))
    assert pairs(plan) == [("B", 5, "sits")]


def test_the_two_numberings_are_not_mixed(features, write_lines, tmp_path):
    """LLaMA features would be read for other queries: they go by the ids of the jsonl files."""
    place = tmp_path / "iv2_features" / "llama2_txt"
    place.mkdir(parents=True)
    features.put(str(place / "qid_5.npy"), features.draw(4, 18))
    folder = open_folder(features.folder, VIDEO, AUDIO, TEXT, text_dir=place)
    assert folder.text_numbering == "jsonl"
    with pytest.raises(AnnotationError, match=r"expected those of \*_tvr_format\.jsonl"):
        plan_queries(folder, file=write_lines("x_qid.txt", "B 1.0 2.0##qid_5##sits"))
    assert len(plan_queries(folder, file=write_lines("x.jsonl", {"qid": 5, "query": "s", "vid": "B"}))) == 1
