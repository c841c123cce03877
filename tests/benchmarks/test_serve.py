"""The benchmark of the server: its load comes when it should, and its page says what was measured."""

import asyncio
import json
import shutil

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from img_deploy.benchmarks import serve
from img_deploy.benchmarks.load import Connections, clients, open_loop
from img_deploy.benchmarks.serve_page import page
from img_deploy.errors import VerificationError


def with_slow_server(work, seconds):
    """What ``work(connections)`` gives, against a server that answers one request at a time, in so many seconds; and
    how many requests it had at once, at most."""
    there = most = 0

    async def all_of_it():
        turn = asyncio.Lock()

        async def answer(reader, writer):
            nonlocal there, most
            while head := await reader.readline():
                while (line := await reader.readline()) != b"\r\n":
                    head += line.lower()
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
                there += 1
                most = max(most, there)
                async with turn:
                    await asyncio.sleep(seconds)
                there -= 1
                body = b'{"answers":[{}]}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            connections = Connections("127.0.0.1", server.sockets[0].getsockname()[1])
            load = await work(connections)
            connections.close()
            return load, most

    return asyncio.run(all_of_it())


def test_open_loop_requests_do_not_wait_for_answers():
    """A slow server would be asked less, and look fast: latencies count from the time a request was due."""
    load, most = with_slow_server(lambda to: open_loop(to, lambda _: b"x", 200, 0.5, "chance"), 0.01)
    assert 60 <= len(load.latencies) <= 140
    assert max(load.latencies) > 0.01 * len(load.latencies) - 0.5  # at twice what it can answer, they pile up
    assert max(load.latencies) > 0.2
    assert most > 20


def test_clients_wait_for_their_answers():
    """A number of clients would be another number of requests at once."""
    load, most = with_slow_server(lambda to: clients(to, lambda _: b"x", 3, 60, most=30), 0.005)
    assert len(load.latencies) == 30
    assert most == 3
    assert min(load.latencies) >= 0.005
    assert load.figures()["per_second"] == pytest.approx(30 / load.seconds, rel=0.01)


def test_only_numbers_may_differ_and_by_how_much_is_told():
    """Other moments in company would be called rounding."""
    row = {"vid": "a", "spans": [[1, 2]], "score": 0.5, "curve": None}
    assert serve.difference([row], [row | {"score": 0.25}]) == 0.25
    for other in ({"vid": "b"}, {"spans": [[1, 3]]}, {"spans": []}, {"curve": [0.5]}, {"more": 1}):
        with pytest.raises(VerificationError, match="differs from the single one"):
            serve.difference([row], [row | other])


def test_answers_in_company_from_command_to_page(bundle_folder, tmp_path, monkeypatch):
    """The benchmark would not start its server, or lose what an earlier run has measured."""
    for name in ("deploy", "small"):
        shutil.copytree(bundle_folder, tmp_path / "work" / name)
    monkeypatch.setattr(serve, "KINDS", 21)
    parts = [{"requests": number, "mib": 100.0 + number, "per_second": 9.5} for number in (10, 20)]
    where = json.loads(json.dumps(serve.environment()))
    known = {"memory": {"parts": parts, "command": "python", "environment": where, "other_programs_cores": 0.0}}
    (tmp_path / "serve.json").write_text(json.dumps(known))
    options = ("--parts", "answers", "--mixed-requests", "60", "--work", str(tmp_path / "work"))
    assert serve.main([*options, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "serve.json").read_text())
    assert result["memory"] == known["memory"]
    assert result["answers"]["requests"] == 60
    assert result["answers"]["largest_difference"] < 1e-5
    text = (tmp_path / "serve.md").read_text()
    assert text == page(result)
    assert "Growth over the last 10 requests: 10.0 MiB." in text
