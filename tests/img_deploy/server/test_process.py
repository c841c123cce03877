"""A server as a process of its own: signals, dying clients, logs."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

ASK = {"query": "a person opens the door", "best": 3}


def raw(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def request_of(body):
    content = json.dumps(body).encode()
    head = "POST /v1/ground HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"
    head = "\r\n".join((*head, f"Content-Length: {len(content)}", "", ""))
    return head.encode() + content


def test_clients_that_die_leave_it_answering(features, listening_server, caplog):
    """Every client that is killed would cost a place, until nobody is answered; or count as a failure of the server."""
    whole = request_of(ASK)
    with listening_server(features=features.folder, most_requests=8) as server:
        for turn in range(100):
            stream = raw(server.url)
            stream.sendall(whole[: len(whole) if turn % 2 else 40 + turn])
            if turn % 4 == 1:
                time.sleep(0.005)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # reset, as a kill does
            stream.close()
        for _ in range(100):
            reply = server.client.post("/v1/ground", json=ASK)
            if reply.status_code == 200:
                break
            time.sleep(0.1)
        assert len(reply.json()["answers"]) == 3
        metrics = server.client.get("/metrics").text
        assert "img_deploy_requests_now 0.0" in metrics
        assert "img_deploy_items_waiting 0.0" in metrics
        assert set(re.findall(r'requests_total{route="/v1/ground",status="(\d+)"}', metrics)) == {"200", "499"}
        assert not [record for record in caplog.records if record.exc_info]


def test_what_was_begun_is_answered_before_it_stops(features, server_process):
    """A new version of a product would cost the answers that are on their way."""
    with server_process("--features", features.folder, "--window-ms", "1000") as server:
        replies = []

        def ask():
            replies.append(httpx.post(f"{server.url}/v1/ground", json=ASK, timeout=30).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        while "img_deploy_requests_now 1.0" not in server.client.get("/metrics").text:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        thread.join(30)
        assert replies == [200]
        assert server.process.wait(30) == 0
        with pytest.raises(OSError):
            raw(server.url)


def test_workers_stop_with_the_process_that_was_killed(features, server_process):
    """The port would stay taken by processes that nobody stops any more."""
    with server_process("--features", features.folder, "--workers", "2") as server:
        workers = [
            one for one in psutil.Process(server.process.pid).children() if "spawn_main" in " ".join(one.cmdline())
        ]
        assert server.client.post("/v1/ground", json=ASK).status_code == 200
        server.process.kill()
        assert len(workers) == 2
        assert not psutil.wait_procs(workers, timeout=30)[1]


def test_log_lines_are_json_with_the_requests_id(features, server_process):
    """Nobody could follow a request through a log."""
    with server_process("--features", features.folder) as server:
        server.client.get("/v1/videos/x", headers={"X-Request-ID": "abc-1"})
        server.client.get("/v1/bundle", headers={"X-Request-ID": "bad id\tx"})
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        time.sleep(0.2)
        lines = [json.loads(server.lines.get()) for _ in range(server.lines.qsize())]
    requests = {line["path"]: line for line in lines if "request" in line}
    assert requests["/v1/videos/x"]["request"] == "abc-1"
    assert requests["/v1/videos/x"]["status"] == 405
    assert len(requests["/v1/bundle"]["request"]) == 32
    assert requests["/v1/bundle"]["ms"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_is_taken_is_told_as_an_error(workers, bundles):
    """A script would get a code that stands nowhere, and a user a log without an error."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "img_deploy.cli.main", "serve", "--bundle", bundles["tiny_glove"]]
        command += ["--backend", "torch", "--port", str(port), "--workers", str(workers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: --host 127.0.0.1 --port {port}: cannot listen there")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--host", "0.0.0.0"), "--token-file"),
        (("--features", "nowhere"), "nowhere"),
        (("--features", "nowhere", "--workers", "2"), "nowhere"),
        (("--media", "nowhere"), "nowhere"),
        (("--clip-seconds", "0"), "clip_seconds"),
        (("--token-file", "nowhere"), "nowhere"),
        (("--index", "a", "--features", "b"), "got both"),
    ],
)
def test_wrong_options_are_refused_before_it_listens(options, told, bundles, run_cli):
    """A server would come up that cannot answer, or that everybody can ask."""
    done = run_cli("serve", "--bundle", bundles["tiny_glove"], *options)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("error:") == 1
