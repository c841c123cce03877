"""Who may ask, how much, and what happens to what is too much."""

import asyncio
import socket
import time

import numpy as np
import pytest

from img_deploy.client import Client
from img_deploy.errors import InputError
from img_deploy.runtime.predictor import Predictor
from img_deploy.server.settings import ServerSettings

ASK = {"query": "a person opens the door", "videos": ["A"]}
TOKEN = "0123456789abcdef"


def slow(monkeypatch, seconds):
    """Make every batch of pairs take so long."""
    ground = Predictor.ground_each

    def ground_each(self, *rest):
        time.sleep(seconds)
        return ground(self, *rest)

    monkeypatch.setattr(Predictor, "ground_each", ground_each)


def test_a_full_queue_says_when_to_come_back(features, served, monkeypatch):
    """Clients would wait without end, or be turned away without knowing for how long."""
    slow(monkeypatch, 0.2)

    async def body(client):
        return await asyncio.gather(*(client.post("/v1/ground", json=ASK) for _ in range(8)))

    replies = served(body, features=features.folder, most_requests=2)
    assert sorted(reply.status_code for reply in replies) == [200] * 2 + [503] * 6
    refused = next(reply for reply in replies if reply.status_code == 503)
    assert int(refused.headers["retry-after"]) >= 1
    assert "busy" in refused.json()["error"]


def test_a_request_takes_no_longer_than_it_may(features, served, monkeypatch):
    """One huge question would hold its client for ever."""

    async def body(client):
        slow(monkeypatch, 1.5)
        late = await client.post("/v1/ground", json=ASK)
        monkeypatch.undo()
        await asyncio.sleep(1)
        return late, await client.post("/v1/ground", json=ASK)

    late, good = served(body, features=features.folder, timeout=1)
    assert late.status_code == 503
    assert "1 s" in late.json()["error"]
    assert good.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused(served, chunked):
    """A few clients could fill the memory; a body without a length would get past the check."""

    async def parts():
        for _ in range(8):
            yield b" " * 1000

    async def body(client):
        content = parts() if chunked else b" " * 8000
        headers = {"Content-Type": "application/json"}
        return await client.post("/v1/ground", content=content, headers=headers)

    reply = served(body, most_body=4096)
    assert reply.status_code == 413
    assert "4096 bytes" in reply.json()["error"]


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_body_that_does_not_come_is_not_waited_for(kind, listening_server):
    """Clients that send half of a body would hold memory for ever, and keep the server from stopping."""
    path = "/v1/ground" if kind.endswith("json") else "/v1/videos"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n--x\r\n"
    with listening_server(timeout=0.5) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            stream.sendall(head.encode())
            reply = b"".join(iter(lambda: stream.recv(4096), b""))  # until the server closes it
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.5 s" in reply


@pytest.mark.parametrize("most_body", [4096, 64 << 20])
def test_a_client_that_still_sends_hears_why_not(most_body, listening_server, tmp_path):
    """The connection would be reset under it: neither the limit nor the missing token would ever be told."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with listening_server(token_file=file, most_body=most_body) as server:
        client = Client(server.url, token=TOKEN if most_body == 4096 else None)
        with pytest.raises(InputError, match="4096 bytes" if most_body == 4096 else "no valid token"):
            client.add_video("large", np.ones((200_000, 24), np.float32))


def test_without_the_token_nothing_is_told(features, served, tmp_path):
    """Anybody who can connect could ask about the videos, or delete them."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    calls = [("POST", "/v1/ground"), ("GET", "/v1/videos"), ("POST", "/v1/videos"), ("DELETE", "/v1/videos/A")]
    calls += [
        ("GET", "/v1/bundle"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/media/A"),
        ("GET", "/x"),
    ]

    async def body(client):
        for bearer in (None, "", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ü"):
            headers = {} if bearer is None else {"Authorization": bearer.encode("latin-1")}
            for method, path in calls:
                reply = await client.request(method, path, headers=headers)
                assert reply.status_code == 401, (bearer, method, path)
                assert TOKEN not in reply.text
        cookie = {"Cookie": f"img_deploy_token={TOKEN}"}
        assert (await client.get("/v1/videos", headers=cookie)).status_code == 401
        described = (await client.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"})).json()
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert all(each["security"] for path in described["paths"].values() for each in path.values())
        assert (await client.get("/v1/media/A", headers=cookie)).status_code == 404
        for path in ("/healthz", "/"):
            assert (await client.get(path)).status_code == 200
        return await client.post("/v1/ground", json=ASK, headers={"Authorization": f"Bearer {TOKEN}"})

    assert served(body, features=features.folder, token_file=file).status_code == 200


def test_a_watcher_may_ask_for_the_head_alone(served):
    """Load balancers and monitors that send HEAD would take a living server for a broken one."""

    async def body(client):
        return [await client.head(path) for path in ("/healthz", "/readyz", "/", "/page.js")]

    for reply in served(body):
        assert (reply.status_code, reply.content) == (200, b"")
        assert int(reply.headers["content-length"]) > 0


def test_pages_of_other_sites_are_kept_out(features, served):
    """A page that a user visits could use the server on their own machine."""

    async def body(client):
        other = await client.post("/v1/ground", json=ASK, headers={"Origin": "https://example.org"})
        rebound = await client.post("/v1/ground", json=ASK, headers={"Host": "example.org"})
        broken = await client.post("/v1/ground", json=ASK, headers={"Host": "[::"})
        own = await client.post("/v1/ground", json=ASK, headers={"Origin": "http://127.0.0.1"})
        return [one.status_code for one in (other, rebound, broken, own)]

    assert served(body, features=features.folder) == [403, 421, 421, 200]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_need_a_token(host, tmp_path):
    """A server would be open to a whole network by mistake."""
    with pytest.raises(InputError, match="--token-file"):
        ServerSettings(host=host).token()
    assert ServerSettings(host=host, no_auth=True).token() is None
    file = tmp_path / "token"
    file.write_text(TOKEN)
    assert ServerSettings(host=host, token_file=file, no_auth=True).token() == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_needs_none(host):
    """The first try would ask for a token."""
    assert ServerSettings(host=host).token() is None


@pytest.mark.parametrize("content", ["", "short", "two words of some length", "ü" * 20])
def test_a_bad_token_file_is_refused(content, tmp_path):
    """An empty file would let everybody in, or nobody is told how to make a token."""
    file = tmp_path / "token"
    file.write_text(content)
    for wrong in (file, tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=f"{wrong.name}: .*; expected .* `openssl rand -hex 32` makes one$"):
            ServerSettings(token_file=wrong).token()
