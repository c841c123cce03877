"""The client, where what answers is no server of ours."""

import socket
import threading
import time

import pytest

from img_deploy.client import Client, ServerError

REPLIES = {
    "no HTTP": b"hello\r\n\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "error cut short": b"HTTP/1.1 500 No\r\nContent-Length: 99\r\n\r\n{",
    "busy until a date": b"HTTP/1.1 503 No\r\nRetry-After: Fri, 27 Nov 2026 12:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


@pytest.fixture
def answering():
    """Function: an address whose every connection gets these bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def begin(reply):
        def answer():
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                with stream:
                    stream.recv(4096)
                    stream.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield begin
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_whatever_comes_back_is_an_error_of_the_server(reply, answering):
    """A proxy, or a server that dies, would raise what the client does not say that it raises."""
    begun = time.monotonic()
    with pytest.raises(ServerError):
        Client(answering(reply), timeout=10, patience=1.5).bundle()
    assert time.monotonic() - begun < 9
