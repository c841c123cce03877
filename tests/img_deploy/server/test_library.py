"""Uploads, indexes and media: what a server knows, and what becomes of it."""

import asyncio
import io
import shutil

import numpy as np
import pytest

from img_deploy.client import Client
from img_deploy.errors import InputError
from img_deploy.runtime.indexing import only_writer
from img_deploy.runtime.predictor import Predictor

ASK = "a person opens the door"


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def arrays(features, clips):
    return features.draw(clips, 24), features.draw(clips + 2, 20)


def test_an_upload_is_answered_as_its_file_is(features, served):
    """The same features would give another answer for the way they came in."""

    async def body(client):
        files = {part: (features.folder / part / "B.npy").read_bytes() for part in ("video", "audio")}
        made = await client.post("/v1/videos", data={"vid": "new", "duration": "20"}, files=files)
        assert made.status_code == 201, made.text
        reply = await client.post("/v1/ground", json={"query": ASK, "videos": ["B", "new"]})
        old, new = reply.json()["answers"]
        assert (await client.delete("/v1/videos/new")).status_code == 204
        gone = await client.post("/v1/ground", json={"query": ASK, "videos": ["new"]})
        return old, new, gone.status_code

    old, new, gone = served(body, features=features.folder)
    assert (new["spans"], new["head"], new["duration"], gone) == (old["spans"], old["head"], 20.0, 404)
    assert new["fractions"][0] == pytest.approx(old["fractions"][0], rel=1e-5)
    assert new["pred_relevant_windows"][0][:2] == pytest.approx([20 * part for part in old["fractions"][0][:2]])


def test_an_id_means_the_video_of_just_that_spelling(features, served):
    """Whoever uploads ``v_B`` would take the place of the library's B, and deleting B would delete theirs."""

    async def body(client):
        await client.post("/v1/videos", params={"vid": "v_B"}, content=npy(features.draw(9, 24)))
        reply = await client.post("/v1/ground", json={"query": ASK, "videos": ["B", "v_B", "v_C"]})
        deleted = await client.delete("/v1/videos/B")
        return [row["vid"] for row in reply.json()["answers"]], deleted.status_code

    assert served(body, features=features.folder) == (["B", "v_B", "C"], 422)


def test_uploads_in_memory_are_bounded(served):
    """Uploads would fill the memory until the server is killed."""

    async def body(client):
        content = npy(np.ones((5, 24), np.float32))
        codes = []
        for vid in ("a", "b", "c", "a"):
            codes.append((await client.post("/v1/videos", params={"vid": vid}, content=content)).status_code)
        return codes

    assert served(body, most_uploads=2) == [201, 201, 503, 201]


def test_an_empty_library_is_no_error(served):
    """A new server would look broken."""

    async def body(client):
        listed = (await client.get("/v1/videos")).json()
        return listed, (await client.post("/v1/ground", json={"query": ASK, "best": 5})).json()["answers"]

    assert served(body) == ({"total": 0, "videos": []}, [])


def test_videos_are_listed_in_parts(features, served):
    """A part would be told twice, or never."""

    async def body(client):
        found, after = [], ""
        while part := (await client.get("/v1/videos", params={"limit": 4, "after": after})).json()["videos"]:
            found += part
            after = part[-1]["vid"]
        return found

    found = served(body, features=features.folder, clip_seconds=2)
    assert [one["vid"] for one in found] == list("ABCDEF")
    assert found[1] == {"vid": "B", "clips": 16, "source_clips": 20, "has_audio": True, "duration": 40.0} | {
        "media": False,
        "error": None,
    }


def test_an_encoding_is_not_older_than_its_file(features, served):
    """A video whose features were extracted again would be answered from the old ones for ever."""

    async def body(client):
        first = (await client.post("/v1/ground", json={"query": ASK, "videos": ["B"]})).json()["answers"]
        features.add("B", 9)
        await asyncio.sleep(1.1)
        return first, (await client.post("/v1/ground", json={"query": ASK, "videos": ["B"]})).json()["answers"]

    [old], [new] = served(body, features=features.folder)
    assert (old["clips"], new["clips"]) == (16, 9)


def test_a_file_that_is_replaced_while_it_is_encoded_is_read_again(features, served, monkeypatch):
    """The encoding of the old file would pass for that of the new one, for ever."""
    encode = Predictor.encode_features

    def encode_features(self, items, *rest):
        if [one.vid for one in items] == ["B"]:
            monkeypatch.undo()
            features.add("B", 9)
        return encode(self, items, *rest)

    async def body(client):
        monkeypatch.setattr(Predictor, "encode_features", encode_features)
        old = await client.post("/v1/ground", json={"query": ASK, "videos": ["B"]})
        await asyncio.sleep(1.1)
        new = await client.post("/v1/ground", json={"query": ASK, "videos": ["B"]})
        return [reply.json()["answers"][0]["clips"] for reply in (old, new)]

    assert served(body, features=features.folder) == [16, 9]


@pytest.fixture
def indexed(features, bundles, tmp_path, run_cli):
    pytest.importorskip("lance", reason="the extra `index` is not installed")
    path = tmp_path / "INDEX"
    done = run_cli("index", features.folder, "--out", path, "--bundle", bundles["tiny_glove"], "--backend", "torch")
    assert done.code == 0, done.err
    return path


def test_an_index_keeps_what_is_uploaded(features, indexed, bundles, run_cli, served):
    """Uploads would be lost with the process, or hidden from `infer`."""
    video, audio = arrays(features, 9)

    async def body(client):
        for vid in ("new", "it's", "new"):
            files = {"video": npy(video), "audio": npy(audio)}
            reply = await client.post("/v1/videos", data={"vid": vid, "duration": 9}, files=files)
            assert reply.status_code == 201, reply.text
        answers = (await client.post("/v1/ground", json={"query": ASK, "videos": ["A", "new", "it's"]})).json()
        for vid in ("it's", "A"):
            assert (await client.delete(f"/v1/videos/{vid}")).status_code == 204
        return answers["answers"], (await client.get("/v1/videos")).json()

    answers, listed = served(body, index=str(indexed))
    assert [row["vid"] for row in answers] == ["A", "new", "it's"]
    assert answers[1]["duration"] == 9.0
    assert [one["vid"] for one in listed["videos"]] == ["B", "C", "D", "E", "F", "new"]
    out = run_cli(
        "infer", indexed, "--bundle", bundles["tiny_glove"], "--query", ASK, "--video", "new", "--format", "jsonl"
    )
    assert '"vid": "new"' in out.out


def test_an_index_written_by_another_program_is_seen(new_features, indexed, bundles, run_cli, served):
    """A running server would not know videos that were indexed since."""
    more = new_features("more")
    more.add("LATE", 6)

    async def body(client):
        assert (await client.get("/v1/videos")).json()["total"] == 6
        command = ("index", more.folder, "--out", indexed, "--bundle", bundles["tiny_glove"], "--backend", "torch")
        await asyncio.to_thread(run_cli, *command)
        await asyncio.sleep(1.1)
        reply = await client.post("/v1/ground", json={"query": ASK, "videos": ["LATE"]})
        return reply.status_code

    assert served(body, index=str(indexed)) == 200


def test_what_another_program_has_indexed_is_known_at_once(new_features, indexed, bundles, run_cli, served):
    """It could be asked, but not deleted; and the page would say that the library is empty."""
    more = new_features("more")
    more.add("LATE", 6)

    async def body(client):
        command = ("index", more.folder, "--out", indexed, "--bundle", bundles["tiny_glove"], "--backend", "torch")
        await asyncio.to_thread(run_cli, *command)
        await asyncio.sleep(1.1)
        count = (await client.get("/v1/bundle")).json()["videos"]
        await asyncio.to_thread(run_cli, "index", features_of(more, "LATER"), *command[2:])
        await asyncio.sleep(1.1)
        return count, (await client.delete("/v1/videos/LATER")).status_code

    assert served(body, index=str(indexed)) == (7, 204)


def features_of(more, vid):
    """The folder ``more`` with one video more."""
    more.add(vid, 5)
    return more.folder


def made_anew(index, run_cli, features, bundle):
    """Have an index removed and made of other features."""
    shutil.rmtree(index)
    done = run_cli("index", features.folder, "--out", index, "--bundle", bundle, "--backend", "torch")
    assert done.code == 0, done.err


def test_an_index_that_was_made_anew_is_seen(features, indexed, bundles, run_cli, served):
    """Its versions count from the first again: the server would stay at files that are gone."""

    async def body(client):
        before = (await client.post("/v1/ground", json={"query": ASK})).json()["answers"][1]
        features.add("B", 9)
        await asyncio.to_thread(made_anew, indexed, run_cli, features, bundles["tiny_glove"])
        await asyncio.sleep(1.1)
        after = (await client.post("/v1/ground", json={"query": ASK})).json()["answers"][1]
        return before["clips"], after["clips"]

    assert served(body, index=str(indexed)) == (16, 9)


def test_an_index_of_another_network_is_no_fault_of_who_asks(indexed, new_features, bundles, run_cli, served):
    """Clients would take their own questions for wrong."""
    others = new_features("others")
    others.put("video/A.npy", others.draw(5, 10))

    async def body(client):
        await asyncio.to_thread(made_anew, indexed, run_cli, others, bundles["tiny_glove_deep"])
        await asyncio.sleep(1.1)
        return await client.post("/v1/ground", json={"query": ASK})

    reply = served(body, index=str(indexed))
    assert reply.status_code == 503
    assert "another bundle's network" in reply.json()["error"]


def test_an_index_that_is_gone_is_no_fault_of_who_asks(indexed, served):
    """Clients would take their own questions for wrong, and not ask again when the index is there."""

    async def body(client):
        shutil.rmtree(indexed)
        return await client.post("/v1/ground", json={"query": ASK})

    reply = served(body, index=str(indexed))
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert "cannot be read" in reply.json()["error"]


def test_questions_are_answered_while_uploads_wait_for_another_program(features, indexed, served, monkeypatch):
    """Whoever fills an index beside the server would silence it as soon as somebody uploads."""
    monkeypatch.setattr("img_deploy.server.shelf.WRITER_WAIT", 0.5)
    content = npy(features.draw(5, 24))

    async def body(client):
        with only_writer(str(indexed)):
            uploads = [client.post("/v1/videos", params={"vid": f"new{one}"}, content=content) for one in range(40)]
            uploading = asyncio.gather(*uploads)
            await asyncio.sleep(0.4)
            answer = await client.post("/v1/ground", json={"query": ASK})
            return answer.status_code, uploading.done(), {reply.status_code for reply in await uploading}

    assert served(body, index=str(indexed), timeout=2) == (200, False, {503})


def test_media_in_ranges(features, served, tmp_path):
    """A browser could not jump to the found moment; or a path in a request would lead out of the folder."""
    media = tmp_path / "media"
    media.mkdir()
    content = bytes(range(256)) * 8
    (media / "A.mp4").write_bytes(content)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (media / "B.mp4").mkdir()
    (media / "C.mp4").write_bytes(b"gone")

    async def body(client):
        part = await client.get("/v1/media/A", headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, content[100:200])
        assert part.headers["content-range"] == "bytes 100-199/2048"
        tail = await client.get("/v1/media/A", headers={"Range": "bytes=-8"})
        assert (tail.status_code, tail.content) == (206, content[-8:])
        whole = await client.get("/v1/media/A")
        assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, content, "bytes")
        assert (await client.head("/v1/media/A")).status_code == 200
        assert (await client.get("/v1/media/A", headers={"Range": "bytes=9999-"})).status_code == 416
        (media / "C.mp4").unlink()
        for path in ("B", "C", "../secret", "..%2fsecret", "%2e%2e/secret", str(tmp_path / "secret.mp4")):
            reply = await client.get(f"/v1/media/{path}")
            assert reply.status_code == 404
            assert b"secret" not in reply.content or "no media file" in reply.text or "Not Found" in reply.text
        listed = (await client.get("/v1/videos", params={"limit": 2})).json()["videos"]
        return [one["media"] for one in listed]

    assert served(body, features=features.folder, media=media) == [True, False]


def test_the_client(features, listening_server):
    """The documented client would not fit the server."""
    with listening_server(features=features.folder, clip_seconds=2) as server:
        client = Client(server.url)
        video, audio = arrays(features, 7)
        assert client.add_video("new", video, audio, duration=14)["clips"] == 7
        assert [one["vid"] for one in client.videos()] == [*"ABCDEF", "new"]
        found = client.ground(ASK, ["new"], top_k=2)
        assert found["answers"][0]["duration"] == 14.0
        assert client.ground(ASK, best=3)["answers"][2]["rank"] == 3
        assert client.bundle()["takes"] == "sentences"
        client.delete_video("new")
        with pytest.raises(InputError, match="no video 'new' among 6"):
            client.ground(ASK, ["new"])
