"""A server for raters at this machine: the page, and a place for their judgements."""

import datetime
import http.server
import json
import pathlib
import sys
import threading
from collections.abc import Callable
from typing import Any

from pf_jax.errors import UserError, warn
from pf_jax.files import WriteError, append_whole, flush_file
from pf_jax.rating.judgements import checked_judgement, to_line
from pf_jax.rating.key import JUDGEMENTS_FILE, PAGE_FILE, Key, read_key, read_page

ADDRESS = "127.0.0.1"

MAX_BODY_BYTES = 64 * 1024

SECONDS = 10
"""Seconds that a client may take to send a request."""

JUDGEMENTS_PATH = "/judgements"

TEXT = "text/plain; charset=utf-8"

Answer = tuple[int, str, bytes]
"""Status, media type and content of an answer."""


class RatingServer(http.server.ThreadingHTTPServer):
    """A server of one folder that `make` wrote.

    Attributes:
        key: The key of the rating.
        page: Content of the page.
        path: Path of `judgements.jsonl`.
        count: Number of judgements stored since the start.
    """

    daemon_threads = True
    # Another server on the same port is an error, not a second one beside it.
    allow_reuse_port = False
    # A class that rates at once connects faster than one thread accepts.
    request_queue_size = 128

    def __init__(self, folder: pathlib.Path, port: int):
        self.key: Key = read_key(folder)
        self.page = read_page(folder, self.key)
        self.path = folder / JUDGEMENTS_FILE
        self.count = 0
        self._lock = threading.Lock()
        _end_last_line(self.path)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(
                f"--port={port}: cannot be used ({error.strerror}): give another one"
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line in place of a traceback; nothing where a client went away."""
        del request, client_address
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            warn(f"a request failed ({type(error).__name__}: {error})")

    def store(self, content: bytes) -> None:
        """Appends one judgement and waits until it has reached the disk.

        Raises:
            UserError: If it is no judgement of this page.
            WriteError: If it cannot be written.
        """
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError("the body is not JSON") from error
        judgement = checked_judgement(self.key, fields)
        line = to_line(self.key, judgement, datetime.datetime.now(datetime.UTC))
        with self._lock:
            append_whole(self.path, line)
            flush_file(self.path)
            self.count += 1


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RatingServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SECONDS
    server_version = "pf_jax"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> Answer:
        if self.path == JUDGEMENTS_PATH:
            raise _Refused(405, "judgements are posted")
        if self.path not in ("/", f"/{PAGE_FILE}"):
            raise _Refused(404, "there is only the page, /")
        return 200, "text/html; charset=utf-8", self.server.page

    def _post(self) -> Answer:
        if self.path != JUDGEMENTS_PATH:
            raise _Refused(
                405 if self.path in ("/", f"/{PAGE_FILE}") else 404,
                f"judgements are posted to {JUDGEMENTS_PATH}",
            )
        self.server.store(self._body())
        return 200, TEXT, b"stored\n"

    def _body(self) -> bytes:
        # Browsers let other sites' pages post forms and plain text, but no JSON.
        if self.headers.get_content_type() != "application/json":
            raise _Refused(415, "a judgement is application/json")
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not length:
            raise _Refused(411, "Content-Length is missing")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(400, "Content-Length is not a number")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise _Refused(413, f"a body has at most {MAX_BODY_BYTES:,} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(400, "the body is shorter than Content-Length")
        return body

    def _check_names(self) -> None:
        """Checks that the request was meant for this server.

        A name of another site can be made to point here, and its page would then count as
        this server's own; such a request has that name as its host.
        """
        port = self.server.server_address[1]
        hosts = (ADDRESS, "localhost")
        names = [f"{host}:{port}" for host in hosts]
        if port == 80:  # Which browsers leave out.
            names += hosts
        if self.headers.get_all("Host", []) not in ([name] for name in names):
            raise _Refused(421, f"this server is {names[0]}")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in (f"http://{name}" for name in names):
            raise _Refused(403, "a judgement comes from this server's own page")

    def _answer(self, handle: Callable[[], Answer]) -> None:
        try:
            self._check_names()
            answer = handle()
        except _Refused as error:
            answer = error.status, TEXT, _line(error)
        except WriteError as error:
            warn(str(error))
            answer = 507, TEXT, b"it cannot be stored\n"
        except UserError as error:
            answer = 422, TEXT, _line(error)
        except TimeoutError:
            answer = 408, TEXT, b"the body took too long\n"
        self._send(*answer)

    def _send(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == 405:
            self.send_header("Allow", "GET" if self.path != JUDGEMENTS_PATH else "POST")
        # What is left of a refused body would be read as the next request.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Answers what `http.server` refuses itself; unknown methods are a 405."""
        del explain
        self.close_connection = True
        # Where the request's version is not known, an answer would have no status.
        self.request_version = "HTTP/1.0"
        self.path = getattr(self, "path", "/")
        self.command = getattr(self, "command", None) or "GET"
        self._send(
            405 if code == 501 else code,
            TEXT,
            _line(message or "refused"),
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the judgements are the log."""
        del format, args


def serve(folder: pathlib.Path, port: int) -> None:
    """Serves a rating until Ctrl-C.

    Args:
        folder: Folder that `make` wrote.
        port: Port of 127.0.0.1; 0 for any that is free.

    Raises:
        UserError: If the folder or the port is wrong.
    """
    with make_server(folder, port) as server:
        address = f"http://{ADDRESS}:{server.server_address[1]}/"
        print(f"raters open {address}; Ctrl-C ends", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
    print(f"\n{server.count:,} judgements stored in {server.path}", flush=True)


def make_server(folder: pathlib.Path, port: int) -> RatingServer:
    """A server that listens, and answers once `serve_forever` is called.

    Raises:
        UserError: If the folder or the port is wrong.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port={port}: must be from 0 to 65535")
    return RatingServer(folder, port)


def _end_last_line(path: pathlib.Path) -> None:
    """Ends a line that was cut off, so that the next one is not lost with it."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            warn(f"{path}: its last line was cut off")
            append_whole(path, "\n")


def _line(error: object) -> bytes:
    return f"{error}\n".encode("utf-8", "backslashreplace")
