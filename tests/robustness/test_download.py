"""Files are fetched one by one, whole or not at all, and never mixed up or unpacked."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import CheckpointError, DownloadError
from core.network.weights import load_arrays, save_arrays, save_for_paddle
from core.settings.download import fetch, file_name
from core.training import checkpoint
from core.training.run import read_run
from tests.robustness.conftest import one_line

LIMIT = 1_000_000
Answer = Callable[[socket.socket], None]


@pytest.fixture
def answer() -> Iterator[Callable[[bytes], str]]:
    """Start a server that sends these very bytes to everyone; return its address."""
    servers: list[socket.socket] = []

    def start(content: bytes) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        servers.append(listening)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for each in servers:
        each.close()


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def weights(value: float) -> dict[str, np.ndarray]:
    return {"w": np.full((2, 2), value, "float32")}


def test_two_addresses_with_one_name_do_not_mix(tmp_path: Path, serve: Any) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / "web" / name).mkdir(parents=True)
        save_for_paddle(tmp_path / "web" / name / "model.pdparams", weights(value))
    web = serve(tmp_path / "web")
    found = {
        name: fetch(f"{web}/{name}/model.pdparams", tmp_path / "cache", LIMIT) for name in "ab"
    }
    assert found["a"] != found["b"]
    assert [load_arrays(found[name])["w"][0, 0] for name in "ab"] == [1, 2]
    assert {path.name for path in found.values()} == {"model.pdparams"}
    # the second time nothing is fetched, and a query makes another address
    (tmp_path / "web" / "a" / "model.pdparams").unlink()
    assert fetch(f"{web}/a/model.pdparams", tmp_path / "cache", LIMIT) == found["a"]
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(f"{web}/a/model.pdparams?v=2", tmp_path / "cache", LIMIT)


def test_a_digest_in_the_address_is_compared(tmp_path: Path, serve: Any) -> None:
    web = serve(tmp_path / "web")
    content = b"weights" * 100
    (tmp_path / "web" / "w.pdparams").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with one_line() as said:
        fetch(f"{web}/w.pdparams#sha256={'0' * 64}", tmp_path / "cache", LIMIT)
    assert said[0].endswith(f"expected a file of sha256 {'0' * 64}, it has {digest}")
    assert left(tmp_path / "cache") == []
    for wanted in (digest, digest.upper()):
        found = fetch(f"{web}/w.pdparams#sha256={wanted}", tmp_path / "cache", LIMIT)
        assert found.read_bytes() == content
    found.write_bytes(b"damaged")  # where it is kept: noticed if there is a digest
    fetch(f"{web}/w.pdparams#sha256={digest}", tmp_path / "cache", LIMIT)
    assert found.read_bytes() == content
    for note in ("sha256=12", "md5=" + "0" * 32, "x", ""):
        with pytest.raises(DownloadError, match="expected #sha256= and 64 digits"):
            fetch(f"{web}/w.pdparams#{note}", tmp_path / "cache", LIMIT)


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
BAD_ANSWERS = {
    "ends early": (HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 500, "fetched|after 500"),
    "chunk cut off": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 9, "fetched"),
    "says it is large": (HEAD + b"Content-Length: 99999999999\r\n\r\nxx", "larger than 0.001 GB"),
    "is large": (HEAD + b"\r\n" + b"x" * (LIMIT + 1), "larger than 0.001 GB"),
    "error": (b"HTTP/1.1 500 Oops\r\n\r\nsorry", "HTTP 500"),
    "nothing": (b"", "cannot be fetched"),
    "no HTTP": (b"\x00\xff" * 100, "cannot be fetched"),
    "redirected to a file": (b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\n\r\n", "fetched"),
    "redirected to itself": (b"HTTP/1.1 302 F\r\nLocation: /x\r\n\r\n", "cannot be fetched"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_what_does_not_come_whole_leaves_nothing(
    tmp_path: Path, answer: Callable[[bytes], str], name: str
) -> None:
    content, message = BAD_ANSWERS[name]
    url = f"{answer(content)}/w.pdparams"
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(url, tmp_path / "cache", LIMIT)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "cache") == []


def test_names_of_addresses_stay_in_the_folder(tmp_path: Path, answer: Any) -> None:
    web = answer(HEAD + b"Content-Length: 2\r\n\r\nok")
    for path in ("/..", "/%2e%2e", "/", "", "/a%2Fb.pdparams", "/%2e%2e%2fx", "/a%00b", "/.hidden",
                 "/" + "y" * 300, "/ü.pdparams", "/a%0Ab", "/C:%5Cx"):  # fmt: skip
        found = fetch(web + path, tmp_path / "cache", LIMIT)
        assert found.read_bytes() == b"ok"
        assert found.parent.parent == tmp_path / "cache"
        assert found.resolve().is_relative_to(tmp_path / "cache")
        assert len(found.name) <= 100
    assert file_name("https://h/x/model.pdparams?download=true#sha256=1") == "model.pdparams"


@pytest.mark.parametrize("url", ["http://", "http:///x", "https://[::1", "http:x", "http://\n/x"])
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "cache", LIMIT)


def test_several_at_once_get_the_same_whole_file(tmp_path: Path, serve: Any) -> None:
    content = os.urandom(300_000)
    web = serve(tmp_path / "web")
    (tmp_path / "web" / "w.pdparams").write_bytes(content)
    found: list[bytes] = []

    def run() -> None:
        found.append(fetch(f"{web}/w.pdparams", tmp_path / "cache", LIMIT).read_bytes())

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 6
    assert len(left(tmp_path / "cache")) == 1


def test_pretrained_takes_files_of_weights_only(
    tmp_path: Path, serve: Any, toy_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRISLIM_CACHE", str(tmp_path / "cache"))
    web, folder = serve(tmp_path / "web"), tmp_path / "web"
    task = read_run(toy_settings()).task
    state = task.build_model().state_dict()
    save_arrays(folder / "good.safetensors", state)
    save_for_paddle(folder / "good.pdparams", state)
    with zipfile.ZipFile(folder / "w.zip", "w") as packed:
        packed.writestr("../../outside.pdparams", b"x")
    for name in ("w.tar", "w.tar.gz", "w.tgz", "weights"):
        (folder / name).write_bytes((folder / "w.zip").read_bytes())
    (folder / "w.pdparams").write_bytes((folder / "w.zip").read_bytes())
    (folder / "page.pdparams").write_text("<html>not here</html>")
    for name in ("good.safetensors", "good.pdparams", "good.pdparams?x=1"):
        path = checkpoint.locate(task, f"{web}/{name}")
        assert load_arrays(path).keys() >= state.keys()
    kept = left(tmp_path / "cache")
    assert len(kept) == 3
    for name in ("w.zip", "w.tar", "w.tar.gz", "w.tgz", "weights", ""):
        with pytest.raises(CheckpointError, match=r"expected the address of a file of weights"):
            checkpoint.locate(task, f"{web}/{name}")
    for name in ("w.pdparams", "page.pdparams"):
        with pytest.raises(CheckpointError, match=rf"^{web}/{name}: (broken|refused)"):
            checkpoint.locate(task, f"{web}/{name}")
    assert left(tmp_path / "cache") == kept
    assert not list(tmp_path.rglob("outside.pdparams"))
