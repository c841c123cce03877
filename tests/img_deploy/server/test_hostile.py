"""Broken and hostile requests: one line of JSON each, and the server goes on."""

import asyncio
import io
import json
import os
import pickle
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from img_deploy.errors import BackendError, FeatureError
from img_deploy.features.readers import npy_from_bytes
from img_deploy.runtime.predictor import Predictor
from img_deploy.server.running import application_of
from img_deploy.server.settings import ServerSettings

WIDTH = 24


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


class Bomb:
    """Fails the test where it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


GOOD = npy(np.ones((5, WIDTH), np.float32))
CONTENTS = {
    "empty": b"",
    "text": b"hello",
    "pickle": pickle.dumps(Bomb()),
    "objects": npy(np.array([Bomb()], object), allow_pickle=True),
    "cut": GOOD[:-1],
    "header alone": GOOD[:40],
    "huge": GOOD.replace(b"(5, 24)", b"(99999999999, 24)"),
    "negative": GOOD.replace(b"(5, 24)", b"(-5, 24)"),
    "code": GOOD.replace(b"'shape': (5, 24)", b"'shape': exit()"),
    "version": GOOD[:6] + b"\x09" + GOOD[7:],
    "width": npy(np.ones((5, WIDTH + 1), np.float32)),
    "nan": npy(np.full((5, WIDTH), np.nan, np.float32)),
    "no clips": npy(np.ones((0, WIDTH), np.float32)),
    "axes": npy(np.ones((2, 3, WIDTH), np.float32)),
    "complex": npy(np.ones((5, WIDTH), np.complex64)),
    "text array": npy(np.array([["a"]])),
}


def assert_one_line(reply, *statuses):
    assert reply.status_code in statuses, reply.text
    content = reply.json()
    assert content.keys() == {"error", "request"}
    assert content["error"]
    assert content["error"] == " ".join(content["error"].split())
    assert "Traceback" not in reply.text
    assert content["request"] == reply.headers["x-request-id"]


def test_broken_features_are_refused(served):
    """A file of an attacker would run code, take the server down, or be answered with a traceback."""

    async def body(client):
        for name, content in CONTENTS.items():
            for files in ({"video": content}, {"video": GOOD, "audio": content}):
                reply = await client.post("/v1/videos", data={"vid": name}, files=files)
                assert_one_line(reply, 422)
            assert_one_line(await client.post("/v1/videos", params={"vid": name}, content=content), 422)
        assert (await client.get("/v1/videos")).json()["total"] == 0
        good = await client.post("/v1/videos", params={"vid": "X", "duration": 3}, content=GOOD)
        facts = {"vid": "X", "clips": 5, "source_clips": 5, "has_audio": False, "duration": 3.0}
        assert good.json() == facts | {"media": False, "error": None}

    served(body)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_array_or_refused(tail):
    """A header nobody thought of would raise something that is no line for a user."""
    for content in (tail, GOOD[:8] + tail, GOOD[:20] + tail):
        with suppress(FeatureError):
            assert npy_from_bytes(content, "x").ndim == 2


QUESTIONS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b"[" * 10_000,
    b'{"query": ""}',
    b'{"query": 5}',
    b'{"query": "a", "other": 1}',
    b'{"query": "a", "best": true}',
    b'{"query": "a", "top_k": "3"}',
    b'{"query": "a", "top_k": 0}',
    b'{"query": "a", "top_k": 1e99}',
    b'{"query": "a", "nms": 2}',
    b'{"query": "a", "nms": NaN}',
    b'{"query": "a", "best": 0}',
    b'{"query": "a", "videos": []}',
    b'{"query": "a", "videos": [""]}',
    b'{"query": "a", "videos": "A"}',
    b'{"query": "a", "qid": -1}',
    b'{"query": " ", "videos": ["A"]}',
    b'{"query": "a", "tokens": [[1, 2], [3]]}',
    b'{"query": "a", "tokens": [[1, 2]], "videos": ["A"]}',
    b'{"query": "a", "tokens": [[NaN]]}',
    json.dumps({"query": "a" * 5000}).encode(),
]


def test_broken_questions_are_refused(features, served):
    """A question that nobody thought of would be answered with a traceback or not at all."""

    async def body(client):
        for content in QUESTIONS:
            reply = await client.post("/v1/ground", content=content, headers={"Content-Type": "application/json"})
            assert_one_line(reply, 422)
        for vid in ("nope", "../A", "/etc/passwd", "A\x00", "..%2f..%2fetc%2fpasswd", "' OR 1=1 --"):
            assert_one_line(await client.post("/v1/ground", json={"query": "a door", "videos": [vid]}), 404)
            assert_one_line(await client.delete(f"/v1/videos/{vid.replace(chr(0), '%00')}"), 404)
        assert_one_line(await client.delete("/v1/videos/A"), 422)
        assert_one_line(await client.get("/v1/videos", params={"limit": 0}), 422)
        assert_one_line(await client.get("/nowhere"), 404)
        assert_one_line(await client.put("/v1/ground"), 405)
        for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary="):
            assert_one_line(await client.post("/v1/videos", content=b"--y", headers={"Content-Type": kind}), 422)
        form = {"vid": "X", "a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}
        assert_one_line(await client.post("/v1/videos", data=form, files={"video": GOOD}), 422)
        for vid in ("", " X", "X\n", "a" * 300):
            assert_one_line(await client.post("/v1/videos", params={"vid": vid}, content=GOOD), 422)
        for duration in ("x", "nan", "-1", "inf", "0"):
            params = {"vid": "X", "duration": duration}
            assert_one_line(await client.post("/v1/videos", params=params, content=GOOD), 422)
        assert (await client.post("/v1/ground", json={"query": "a door"})).status_code == 200

    served(body, features=features.folder)


def test_a_body_full_of_mistakes_is_told_in_a_line(features, served):
    """Telling each of millions would take minutes, in which nobody is answered, and all of the memory."""
    extra = json.dumps({"query": "a"} | dict.fromkeys(map(str, range(1000)), 1))
    rows = json.dumps({"tokens": [["1"] * 500] * 500})
    ids = json.dumps({"query": "a", "videos": [1] * 1000})

    async def body(client):
        for content, told in (
            (extra, "got 1000 problems"),
            (rows, "tokens.0.0: Input should be a valid number"),
            (ids, "videos.0: Input should be a valid string"),
        ):
            reply = await client.post("/v1/ground", content=content, headers={"Content-Type": "application/json"})
            assert_one_line(reply, 422)
            assert reply.json()["error"].startswith(told)
            assert len(reply.text) < 200

    served(body, features=features.folder)


def test_a_form_in_an_encoding_of_its_own_is_refused(served):
    """A codec that raises what no parser of forms expects would count as a failure of the server."""
    form = b'--x\r\nContent-Disposition: form-data; name="vid"\r\n\r\nA\r\n--x--\r\n'

    async def body(client):
        headers = {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}
        reply = await client.post("/v1/videos", content=form, headers=headers)
        assert_one_line(reply, 422)
        assert "UTF-8" in reply.json()["error"]

    served(body)


def test_the_page_is_what_it_is_whatever_a_link_says(served):
    """A link could put content of its own in the page's place."""

    async def body(client):
        for path in ("/", "/page.js", "/page.css"):
            plain, odd = await client.get(path), await client.get(path, params={"reply": "x", "request": "y"})
            assert odd.content == plain.content
            assert odd.headers["content-security-policy"] == plain.headers["content-security-policy"]
            assert f'requests_total{{route="{path}",status="200"}} 2.0' in (await client.get("/metrics")).text

    served(body)


def test_a_question_says_that_it_is_json(features, served):
    """A page of another site could ask by a plain form, for which browsers seek no leave."""

    async def body(client):
        content = json.dumps({"query": "a door"}).encode()
        for kind in ("text/plain", "", "application/x-www-form-urlencoded", "xapplication/json", "application/xjson"):
            reply = await client.post("/v1/ground", content=content, headers={"Content-Type": kind} if kind else {})
            assert_one_line(reply, 422)
            assert "application/json" in reply.json()["error"]
        for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"):
            reply = await client.post("/v1/ground", content=content, headers={"Content-Type": kind})
            assert reply.status_code == 200

    served(body, features=features.folder)


def test_what_fails_inside_is_told_in_the_log_alone(features, served, monkeypatch, caplog):
    """A traceback would tell a stranger about the machine; and without a log nobody could mend it."""

    async def body(client):
        monkeypatch.setattr("img_deploy.server.app.remarks_of", lambda _: 1 / 0)
        return await client.post("/v1/ground", json={"query": "a door"}, headers={"X-Request-ID": "mine"})

    reply = served(body, features=features.folder)
    assert_one_line(reply, 500)
    assert reply.json()["request"] == "mine"
    assert "Zero" not in reply.text
    assert any(record.exc_info and record.fields["request"] == "mine" for record in caplog.records)


def test_a_warm_up_that_fails_is_told_in_the_log(bundles, monkeypatch, caplog):
    """A server that never becomes ready would say that it warms up, and nobody why."""

    async def all_of_it():
        app = application_of(ServerSettings(bundle=bundles["tiny_glove"], backend="torch", threads=1))
        async with app.router.lifespan_context(app):
            while not caplog.records:
                await asyncio.sleep(0.01)

    error = BackendError("out of memory")
    monkeypatch.setattr(Predictor, "encode_features", lambda _, items, *__: [error] * len(items))
    asyncio.run(asyncio.wait_for(all_of_it(), 30))
    assert "warming up failed" in caplog.text
    assert "out of memory" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux alone")
def test_a_file_name_that_is_no_text_leaves_the_others_alone(features, served, caplog):
    """JSON cannot hold it: neither the list nor a question to all videos would ever be answered."""
    (features.folder / "video" / os.fsdecode(b"caf\xe9.npy")).write_bytes(b"")

    async def body(client):
        reply = await client.post("/v1/ground", json={"query": "a door"})
        return [row["vid"] for row in reply.json()["answers"]], (await client.get("/v1/videos")).json()["total"]

    assert served(body, features=features.folder) == (list("ABCDEF"), 6)
    assert "1 videos are left out" in caplog.text


def test_durations_of_other_videos_are_told_in_the_log(features, served, tmp_path, caplog):
    """All moments would come without seconds, and nobody would know why."""
    file = tmp_path / "seconds.json"
    file.write_text('{"elsewhere": 30.0}')

    async def body(client):
        return (await client.get("/v1/videos")).json()["total"]

    assert served(body, features=features.folder, durations=file) == 6
    assert "none of its 1 ids (e.g. elsewhere) is that of a video" in caplog.text


def test_a_broken_video_leaves_the_others_alone(features, served):
    """One bad file would make a whole library silent."""
    features.put("video/BAD.npy", b"not an array")

    async def body(client):
        whole = await client.post("/v1/ground", json={"query": "a door"})
        alone = await client.post("/v1/ground", json={"query": "a door", "videos": ["BAD"]})
        return whole.json(), alone, (await client.get("/v1/videos")).json()

    whole, alone, listed = served(body, features=features.folder)
    assert [row["vid"] for row in whole["answers"]] == list("ABCDEF")
    assert "BAD" in whole["skipped"][0]
    assert_one_line(alone, 422)
    assert [one["vid"] for one in listed["videos"] if one["error"]] == ["BAD"]
