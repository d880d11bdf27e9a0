"""Hub data sets, against a small server that speaks the hub's HTTP interface."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.evaluation.data_roots import DataRoots
from services.evaluation.errors import DataNotFoundError
from services.evaluation.hub import HuggingFaceHub
from services.evaluation.source_specification import Hub

COMMIT = "1" * 40
FILES = {"main/test-0.jsonl": b'{"question": "1+1", "answer": "2"}\n', "main/train-0.jsonl": b"{}\n"}


@dataclass
class HubServer:
    """The address of a running server and what it was asked for."""

    address: str = ""
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """A hub with the one data set me/sums on loopback."""
    state = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            state.paths.append(path)
            name = path.removeprefix(f"/datasets/me/sums/resolve/{COMMIT}/")
            if path == "/api/datasets/me/sums/revision/v1":
                siblings = [{"rfilename": each} for each in FILES]
                self.answer(
                    json.dumps({"id": "me/sums", "sha": COMMIT, "siblings": siblings}).encode(), "application/json"
                )
            elif name in FILES:
                self.answer(FILES[name], "application/octet-stream")
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def answer(self, content: bytes, content_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_are_listed_and_downloaded_at_their_revision(hub_server: HubServer, tmp_path: Path) -> None:
    roots = DataRoots((), HuggingFaceHub(tmp_path, endpoint=hub_server.address))
    (found,) = roots.find_on_hub(Hub(dataset="me/sums", revision="v1"), "main/test-*.jsonl")
    assert found.name == "me/sums/main/test-0.jsonl"
    assert found.path.read_bytes() == FILES["main/test-0.jsonl"]
    assert any(f"/resolve/{COMMIT}/main/test-0.jsonl" in path for path in hub_server.paths)


def test_a_listing_is_asked_for_once(hub_server: HubServer, tmp_path: Path) -> None:
    client = HuggingFaceHub(tmp_path, endpoint=hub_server.address)
    hub = Hub(dataset="me/sums", revision="v1")
    assert [client.list_files(hub) for _ in range(5)] == [tuple(FILES)] * 5
    assert len([path for path in hub_server.paths if path.startswith("/api/")]) == 1


def test_an_unknown_data_set_is_a_typed_error_and_also_asked_for_once(hub_server: HubServer, tmp_path: Path) -> None:
    client = HuggingFaceHub(tmp_path, endpoint=hub_server.address)
    for _ in range(3):
        with pytest.raises(DataNotFoundError, match="the hub data set me/none at revision main cannot be fetched: "):
            client.list_files(Hub(dataset="me/none", revision="main"))
    assert len([path for path in hub_server.paths if path.startswith("/api/")]) == 1


def test_a_hub_that_does_not_answer_is_a_typed_error(tmp_path: Path) -> None:
    client = HuggingFaceHub(tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(DataNotFoundError, match="cannot be fetched"):
        client.list_files(Hub(dataset="me/sums", revision="v1"))
    with pytest.raises(DataNotFoundError, match="cannot be fetched"):
        client.download(Hub(dataset="me/sums", revision="v1"), "main/test-0.jsonl")
