"""An HTTP server in front of another one that can refuse, fail, hang, cut uploads short or change bytes on the way."""

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Change = Callable[[str, str, bytes], bytes]
"""(method, path, body of the answer) -> what is answered instead."""


class FaultyServer:
    """Set `failing`, `change` or `before` at any time; a with block serves."""

    def __init__(self, behind: str) -> None:
        self.behind = urlsplit(behind).netloc
        self.failing = False
        """Whether every request is answered with 503."""
        self.before: Callable[[str, str], None] = lambda _method, _path: None
        """Called before a request is passed on."""
        self.change: Change = lambda _method, _path, body: body
        self.dropped_headers: tuple[str, ...] = ()
        """Of requests that are passed on."""
        self.requests: list[tuple[str, str]] = []
        """(method, path) of all that came."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                owner.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _answer

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._handler = Handler
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._port = self._server.server_address[1]
        self._closed = False
        self.address = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "FaultyServer":
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closed:
            self.close()

    def close(self) -> None:
        """Refuse connections from now on, and drop those that are open."""
        self._closed = True
        self._server.shutdown()
        self._server.server_close()

    def reopen(self) -> None:
        """Serve again, at the same address."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._closed = False
        self._serve()

    def _serve(self) -> None:
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def fail_for(self, seconds: float) -> None:
        """Answer 503 for a while."""
        self.failing = True

        def heal() -> None:
            time.sleep(seconds)
            self.failing = False

        threading.Thread(target=heal, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Pass one request on, or not."""
        self.requests.append((request.command, request.path))
        body = _body(request)
        self.before(request.command, request.path)
        if self._closed:
            request.close_connection = True
            return
        if self.failing:
            _send(request, 503, [], b"")
            return
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        dropped = ("transfer-encoding", *self.dropped_headers)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        connection.request(request.command, request.path, body=body, headers=headers)
        answer = connection.getresponse()
        told = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN_HEADERS]
        if request.command == "HEAD":
            kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        else:
            told = self.change(request.command, request.path, told)
        _send(request, answer.status, kept, told)
        connection.close()


_OWN_HEADERS = ("content-length", "transfer-encoding", "connection", "date", "server")


def _send(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    if request.command != "HEAD":
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body if request.command != "HEAD" else b"")


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body
