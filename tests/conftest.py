"""Shared fixtures: the plugins' folder is importable, a toy run is one call away."""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401 - before Paddle, as in the tools

import http.server
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paddle
import pytest

from core.settings.download import CACHE
from tests.device import DEVICE

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "plugins"))

# what `nohup` and shells in the background ignore, all processes that are started here would, too
for _number, _default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    """Let tests run on a CPU, and those marked `gpu` where `make test-gpu` says."""
    paddle.set_device(DEVICE)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is fetched and remembered out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_log_left() -> Iterator[None]:
    """Remove the handler that a tool's frame, run here, adds: its stream closes with the test."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Start a web server over a folder, made if it is absent; return its address."""
    servers = []

    def start(folder: Path) -> str:
        folder.mkdir(exist_ok=True)

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, *args: Any) -> None: ...

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def toy_settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a toy run; keyword arguments go into `train`."""

    def make(**train: Any) -> dict[str, Any]:
        return {
            "task": {"name": "outside.toy"},
            "train": {
                "epochs": 4,
                "batch_size": 4,
                "learning_rate": 0.05,
                "optimizer": {"kind": "momentum"},
                **train,
            },
            "seed": 3,
            "data": {"root": str(tmp_path / "data")},
            "synthetic": {"train_images": 16, "val_images": 6},
        }

    return make
