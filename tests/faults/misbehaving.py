"""An HTTP server in front of a tracking server: it passes requests on, answers 500, hangs, or cuts connections."""

import contextlib
import http.client
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Misbehaving:
    """What the server does with the next requests; changed by the test while it serves."""

    mode: str = "pass"
    """pass, 500, hang or cut."""
    good_requests: int = 0
    """Requests that are passed on before the mode takes effect."""
    authorization: str = ""
    """The Authorization header without which the answer is 401; empty for any."""
    address: str = ""
    """Such as http://127.0.0.1:40000."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set when the test ends, so that hanging requests end too."""
    requests: int = 0
    """How many there have been."""

    def now(self) -> str:
        """The mode of the request at hand."""
        self.requests += 1
        if self.good_requests:
            self.good_requests -= 1
            return "pass"
        return self.mode


@contextlib.contextmanager
def misbehaving(upstream: str | None, mode: str) -> Iterator[Misbehaving]:
    """A server on this machine for the length of the body."""
    state = Misbehaving(mode=mode)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = state.now()
            if kind == "hang":
                state.released.wait(60)
            if kind in ("hang", "cut"):
                self.close_connection = True
                return
            if state.authorization and self.headers.get("Authorization") != state.authorization:
                status, content = 401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}'
            else:
                status, content = (500, b"out of order") if kind == "500" else self.pass_on(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def pass_on(self, body: bytes) -> tuple[int, bytes]:
            assert upstream is not None
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(upstream).netloc, timeout=30)
            with contextlib.closing(connection):
                kind = self.headers.get("Content-Type", "application/json")
                connection.request(self.command, self.path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                return answer.status, answer.read()

        do_GET = do_POST = do_PATCH = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
