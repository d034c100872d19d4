import errno
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from errors import error_of
from ratings import simulated, write_rating

from pf_jax.files import write_error
from pf_jax.rating import scoring, server
from pf_jax.rating.judgements import to_line

ROOT = pathlib.Path(__file__).parent.parent
JSON = {"Content-Type": "application/json"}


class Client:
    """Requests to a server that runs in this process."""

    def __init__(self, folder, key, running):
        self.folder, self.key, self.running = folder, key, running
        self.port = running.server_address[1]

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read().decode()
        connection.close()
        return response.status, content

    def post(self, body, **headers):
        return self.ask("POST", "/judgements", body, {**JSON, **headers})

    def send(self, request):
        """The status of a request that is written byte by byte."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            answer = b""
            while part := raw.recv(65536):
                answer += part
        return int(answer.split()[1])

    def lines(self):
        path = self.folder / "judgements.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [without_time(line) for line in lines]


def without_time(line):
    """A stored line as it was posted; the server adds the time to it."""
    fields = json.loads(line)
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT[\d:.]{12}Z", fields.pop("time"))
    return json.dumps(fields)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rating")
    key, _ = write_rating(folder)
    with server.make_server(folder, 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield Client(folder, key, running)
        running.shutdown()
        thread.join()


def line_of(client, rater="ann", number=0):
    rng = np.random.default_rng(0)
    return to_line(client.key, simulated(client.key, rater, rng)[number])


def test_page_is_served_and_nothing_else(client):
    page = (client.folder / "page.html").read_text()
    assert client.ask("GET", "/") == (200, page)
    assert client.ask("GET", "/page.html") == (200, page)
    for path in (
        "/key.json",
        "/../key.json",
        "/judgements.jsonl",
        "/page.html/",
        "/?a",
    ):
        assert client.ask("GET", path) == (404, "there is only the page, /\n"), path


def test_judgements_are_appended_and_scored(client):
    before = client.lines()
    lines = [line_of(client, "bob", number).strip() for number in range(3)]
    for number, line in enumerate(lines, start=1):
        assert client.post(line) == (200, "stored\n")
        # On the disk when the answer comes.
        assert client.lines() == before + lines[:number]
    more = [line_of(client, "bob", number) for number in range(3, 34)]
    assert {client.post(line)[0] for line in more} == {200}
    scores = scoring.score(client.folder, [])
    assert "bob" in scores.prefers_a.by_rater and sum(scores.counts) == 24


def test_judgements_of_many_threads_are_whole_lines(client):
    before = len(client.lines())
    lines = [line_of(client, f"t{number}") for number in range(16)]
    statuses = []
    threads = [
        threading.Thread(target=lambda x=x: statuses.append(client.post(x)[0]))
        for x in lines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    assert sorted(client.lines()[before:]) == sorted(x.strip() for x in lines)


WRONG_BODIES = {
    "": "the body is not JSON",
    "{": "the body is not JSON",
    "[" * 60_000: "the body is not JSON",
    "[]": "not an object",
    "{}": "a judgement of another page",
    "\x00": "the body is not JSON",
}


@pytest.mark.parametrize("body", WRONG_BODIES, ids=lambda x: x[:3] or "empty")
def test_wrong_bodies_are_refused_in_one_line(client, body, capfd):
    before = client.lines()
    status, content = client.post(body.encode())
    assert status == 422 and content.count("\n") == 1
    assert content.startswith(WRONG_BODIES[body])
    assert client.lines() == before and capfd.readouterr() == ("", "")


def test_wrong_judgements_are_refused(client):
    before = client.lines()
    fields = json.loads(line_of(client))
    for name, value, words in (
        ("choice", 5, "choice is 5: must be 1, 2, 3 or 4"),
        ("choice", "1", "choice is '1'"),
        ("rater", "a\nb", "rater is 'a\\nb'"),
        ("rater", "x" * 41, "rater is"),
        ("item", ["x"], "item is ['x']"),
        ("left", fields["right"], "other samples, or other sides"),
        ("seconds", 1, "fields are"),
    ):
        status, content = client.post(json.dumps({**fields, name: value}))
        assert status == 422 and words in content and content.count("\n") == 1
    assert client.lines() == before


def test_requests_that_are_not_the_page_s_are_refused(client, capfd):
    before = client.lines()
    line = line_of(client)
    port = client.port
    cases = {
        ("PUT", "/judgements"): 405,
        ("DELETE", "/"): 405,
        ("BREW", "/"): 405,
        ("HEAD", "/"): 405,
        ("OPTIONS", "/judgements"): 405,
        ("GET", "/judgements"): 405,
        ("POST", "/"): 405,
        ("POST", "/key.json"): 404,
    }
    for (method, path), status in cases.items():
        assert client.ask(method, path, line, JSON)[0] == status, (method, path)
    for headers, status in (
        ({"Host": "example.com"}, 421),
        ({"Host": f"example.com:{port}"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Host": f"localhost:{port}", "Origin": "http://example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Length": "-5"}, 400),
        ({"Content-Length": "5x"}, 400),
        ({"Content-Length": str(64 * 1024 + 1)}, 413),
        ({"Content-Length": "9" * 5000}, 413),
        ({"Transfer-Encoding": "chunked"}, 411),
    ):
        assert client.post(line, **headers)[0] == status, headers
    assert client.lines() == before and capfd.readouterr() == ("", "")


def test_broken_requests_are_refused(client, capfd):
    host = f"Host: 127.0.0.1:{client.port}\r\n".encode()
    post = b"POST /judgements HTTP/1.1\r\nContent-Type: application/json\r\n" + host
    assert client.send(post + b"\r\n") == 411
    assert client.send(post + b"Content-Length: 50\r\n\r\n{}") == 400
    assert client.send(post + host + b"Content-Length: 2\r\n\r\n{}") == 421
    assert client.send(b"GET / HTTP/1.1\r\n\r\n") == 421
    assert client.send(b"GET / HTTP/9.9\r\n" + host + b"\r\n") in (400, 505)
    assert client.send(b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n") == 414
    assert client.send(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n") == 431
    assert client.send(b"nonsense\r\n\r\n") == 400
    assert client.ask("GET", "/")[0] == 200 and capfd.readouterr() == ("", "")


def test_host_and_origin_of_this_server_are_taken(client):
    line = line_of(client, "dan")
    for name in (f"127.0.0.1:{client.port}", f"localhost:{client.port}"):
        assert client.post(line, Host=name, Origin=f"http://{name}")[0] == 200


def test_clients_that_hang_or_leave_stop_nothing(client, monkeypatch, capfd):
    monkeypatch.setattr(server._Handler, "timeout", 0.2)
    post = (
        f"POST /judgements HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as hanging:
        hanging.sendall(post.encode())
        assert client.ask("GET", "/")[0] == 200
        assert int(hanging.recv(100).split()[1]) == 408
    with socket.create_connection(("127.0.0.1", client.port)) as leaving:
        leaving.sendall(b"GET / HT")
    assert client.ask("GET", "/")[0] == 200 and capfd.readouterr() == ("", "")


def test_full_disk_is_answered_and_told_in_one_line(client, monkeypatch, capfd):
    def full(path, text):
        raise write_error(path, len(text), errno.ENOSPC)

    monkeypatch.setattr(server, "append_whole", full)
    assert client.post(line_of(client)) == (507, "it cannot be stored\n")
    message = capfd.readouterr().err
    assert message.startswith("warning: ") and message.count("\n") == 1
    assert "no room left" in message


def test_line_that_was_cut_off_is_ended(tmp_path, capsys):
    write_rating(tmp_path)
    path = tmp_path / "judgements.jsonl"
    path.write_text('{"page": "1')
    server.make_server(tmp_path, 0).server_close()
    assert path.read_text() == '{"page": "1\n'
    assert "its last line was cut off" in capsys.readouterr().err


def test_serve_refuses_what_it_cannot_serve(tmp_path, client):
    assert "key.json: no such file" in error_of(server.serve, tmp_path / "gone", 0)
    write_rating(tmp_path)
    for port in (-1, 65536):
        assert error_of(server.serve, tmp_path, port) == (
            f"--port={port}: must be from 0 to 65535"
        )
    message = error_of(server.serve, tmp_path, client.port)
    assert message.startswith(f"--port={client.port}: cannot be used (")
    page = (tmp_path / "page.html").read_text()
    (tmp_path / "page.html").write_text(page.replace(client.key.page, ""))
    (tmp_path / "key.json").write_text(client.key.to_json())
    assert "does not bear the SHA-256" in error_of(server.serve, tmp_path, 0)
    (tmp_path / "page.html").unlink()
    assert "page.html: cannot be read" in error_of(server.serve, tmp_path, 0)


def test_server_listens_at_this_machine_alone(client):
    assert client.running.server_address[0] == "127.0.0.1"


def test_rate_py_serves_until_ctrl_c(tmp_path):
    key, _ = write_rating(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "rate.py", "serve", f"--dir={tmp_path}", "--port=0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[2]
    port = int(address.rstrip("/;").rpartition(":")[2])
    other = Client(tmp_path, key, type("Running", (), {"server_address": ("", port)}))
    assert other.post(line_of(other))[0] == 200
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert (process.returncode, errors) == (0, "")
    assert output == f"\n1 judgements stored in {tmp_path}/judgements.jsonl\n"
