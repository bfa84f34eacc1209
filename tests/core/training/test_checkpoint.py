"""Checkpoints: strict, atomic, safe to open."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from core.errors import CheckpointError, ConfigError, FileError
from core.network.weights import assign, complete_backbone, load_arrays
from core.training import checkpoint
from core.training.checkpoint import CheckpointDescription, save, weights_path
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[3]


def small_net() -> nn.Layer:
    return nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Flatten(), nn.Linear(4, 5))


def test_files_of_paddle_are_read_as_paddle_reads_them(tmp_path: Path) -> None:
    net = small_net()
    paddle.save(net.state_dict(), str(tmp_path / "a.pdparams"))
    ours, theirs = load_arrays(tmp_path / "a.pdparams"), paddle.load(str(tmp_path / "a.pdparams"))
    assert set(ours) == set(theirs) == set(net.state_dict())
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.numpy())
    paddle.save({"x": {"deep": paddle.ones([2])}}, str(tmp_path / "b.pdparams"))
    assert load_arrays(tmp_path / "b.pdparams")["x"]["deep"] is not None


def test_paddle_reads_our_files(tmp_path: Path) -> None:
    net, other = small_net(), small_net()
    save(tmp_path / "c", CheckpointDescription("t", {}), net.state_dict())
    other.set_state_dict(paddle.load(str(tmp_path / "c" / "model.pdparams")))
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), other.state_dict()[name].numpy())


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


class EvilEval:
    def __reduce__(self) -> Any:
        return eval, ("__import__('os').system('touch hacked')",)


@pytest.mark.parametrize("thing", [Evil(), EvilEval(), Path("x"), print])
def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pdparams").write_bytes(pickle.dumps({"weight": thing}))
    with pytest.raises(CheckpointError, match=r"evil\.pdparams: refused: it asks for "):
        load_arrays(tmp_path / "evil.pdparams")
    assert not (tmp_path / "hacked").exists()


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pdparams"
    paddle.save(small_net().state_dict(), str(path))
    content = path.read_bytes()
    for broken in (b"", content[:10], content[: len(content) // 2], b"hello world", b"\x80\x04."):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"x\.pdparams: "):
            load_arrays(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(content)
        spoilt[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(spoilt)
        with contextlib.suppress(CheckpointError):  # or the flipped byte is one of a number
            load_arrays(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(CheckpointError, match="holds no dictionary"):
        load_arrays(path)
    with pytest.raises(CheckpointError, match="no such weights file"):
        weights_path(tmp_path / "gone")


def test_one_wrong_byte_does_not_fill_the_machine(tmp_path: Path) -> None:
    # LONG_BINPUT with the largest index: the C unpickler would allocate 34 GB and touch them all
    spoilt = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f"
    (tmp_path / "x.pdparams").write_bytes(spoilt + pickle.STOP)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_arrays(tmp_path / "x.pdparams") == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_assign_is_strict_and_changes_nothing_on_failure() -> None:
    net = small_net()
    good = {name: t.numpy() + 1 for name, t in net.state_dict().items()}
    before = {name: t.numpy() for name, t in net.state_dict().items()}
    cases = {
        "0.weight is [4, 3, 3, 3] in the network, [4, 3, 1, 1] in the file": {
            **good,
            "0.weight": np.zeros((4, 3, 1, 1), np.float32),
        },
        "1 missing, first 0.bias": {k: v for k, v in good.items() if k != "0.bias"},
        "1 unknown to the network, first extra": {**good, "extra": np.zeros(1)},
        "did you mean '0.wieght'": {
            ("0.wieght" if k == "0.weight" else k): v for k, v in good.items()
        },
    }
    for message, weights in cases.items():
        with pytest.raises(CheckpointError) as caught:
            assign(net, weights, "file.pdparams")
        assert str(caught.value).startswith("file.pdparams: weights of another network")
        assert message in str(caught.value)
        for name, tensor in net.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), before[name])
    assign(net, good, "file.pdparams")
    np.testing.assert_array_equal(net[0].weight.numpy(), good["0.weight"])


def test_another_class_count_says_how_to_start_the_head_anew() -> None:
    net = small_net()
    weights = {name: t.numpy() for name, t in net.state_dict().items()}
    weights["3.weight"], weights["3.bias"] = np.zeros((4, 9), "f"), np.zeros(9, "f")
    with pytest.raises(CheckpointError, match=r"-o 'model\.reinit=\[3\.\*\]'"):
        assign(net, weights, "x.pdparams")
    head = net[3].weight.numpy()
    assign(net, weights, "x.pdparams", ["3.*"])
    np.testing.assert_array_equal(net[3].weight.numpy(), head)
    with pytest.raises(ConfigError, match=r"^model\.reinit: 'fc\.\*' matches nothing"):
        assign(net, weights, "x.pdparams", ["fc.*"])


class Around(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4))
        self.decoder = nn.Conv2D(4, 2, 1)


def test_weights_of_a_backbone_alone_fit_a_whole_network() -> None:
    net, classifier = Around(), small_net()
    weights = {name: t.numpy() + 1 for name, t in classifier.state_dict().items()}
    fresh = net.decoder.weight.numpy()
    complete = complete_backbone(net, weights, "c.pdparams")
    assign(net, complete, "c.pdparams")
    np.testing.assert_array_equal(net.backbone[0].weight.numpy(), weights["0.weight"])
    np.testing.assert_array_equal(net.backbone[1]._mean.numpy(), weights["1._mean"])
    np.testing.assert_array_equal(net.decoder.weight.numpy(), fresh)
    # a backbone of which a part is missing is still an error, and whole networks pass untouched
    del weights["1._mean"]
    with pytest.raises(CheckpointError, match=r"1 missing, first backbone\.1\._mean"):
        assign(net, complete_backbone(net, weights, "c.pdparams"), "c.pdparams")
    whole = {name: t.numpy() for name, t in net.state_dict().items()}
    assert complete_backbone(net, whole, "w.pdparams").keys() == whole.keys()
    other = {"x.weight": np.zeros(1)}
    assert complete_backbone(net, other, "o.pdparams") == other


def test_a_replacement_that_was_cut_off_is_found_and_mended(tmp_path: Path) -> None:
    folder = tmp_path / "latest"
    save(folder, CheckpointDescription("t", {}, epoch=1), {"w": np.ones(1)})
    aside = tmp_path / ".latest.trislim-old"
    for path in (folder, folder / "model.safetensors"):
        folder.rename(aside)  # killed between the two renames
        (tmp_path / ".latest.trislim-partial").mkdir(exist_ok=True)
        assert weights_path(path) == folder / "model.safetensors"  # who reads it puts it back
        assert not aside.exists()
    assert checkpoint.load_description(folder).epoch == 1
    folder.rename(aside)
    save(folder, CheckpointDescription("t", {}, epoch=2), {"w": np.ones(1)})
    assert checkpoint.load_description(folder).epoch == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest"]


def test_folders_of_the_user_stay(tmp_path: Path) -> None:
    for name in ("best.old", "best.partial"):
        (tmp_path / name).mkdir()
    for epoch in (1, 2):
        save(tmp_path / "best", CheckpointDescription("t", {}, epoch=epoch), {"w": np.ones(1)})
        weights_path(tmp_path / "best")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "best.old", "best.partial"]


def test_weights_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "best", CheckpointDescription("t", {}), {"w": np.ones(1)})
    monkeypatch.chdir(tmp_path / "best")
    assert load_arrays(weights_path("."))["w"] == 1
    assert load_arrays(weights_path("model"))["w"] == 1
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^\.: no such weights file"):
        weights_path(".")


WRITER = """
import sys, numpy as np
from pathlib import Path
from core.training.checkpoint import CheckpointDescription, save
for epoch in range(1, 10**6):
    weights = {f"w{i}": np.full(20000, epoch, np.float32) for i in range(10)}
    save(Path(sys.argv[1]), CheckpointDescription("t", {}, epoch=epoch), weights, {"epoch": epoch})
    print(epoch, flush=True)
"""


def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "latest"
    delays = np.random.default_rng(0).uniform(0, 0.02, 5)
    for delay in delays:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(2):
            writer.stdout.readline()
        threading.Event().wait(delay)
        writer.kill()
        writer.wait()
        weights = load_arrays(weights_path(folder))
        description = checkpoint.load_description(folder)
        training = load_arrays(folder / "training.safetensors")
        values = {float(x) for array in weights.values() for x in (array.min(), array.max())}
        assert values == {float(description.epoch)} == {float(training["epoch"])}


def test_disk_full_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "latest"
    save(folder, CheckpointDescription("t", {}, epoch=1), {"w": np.ones(4)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, limits[1]))
        with pytest.raises(FileError, match=r"latest: cannot be written: File too large"):
            save(folder, CheckpointDescription("t", {}, epoch=2), {"w": np.ones(10**6)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoint.load_description(folder).epoch == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest"]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file/out: cannot be written: Not a directory"):
        save(tmp_path / "file" / "out", CheckpointDescription("t", {}), {})


def test_restore_needs_a_description_or_a_task(toy_settings: Any, tmp_path: Path) -> None:
    task = read_run(toy_settings()).task
    net = task.build_model()
    paddle.save(net.state_dict(), str(tmp_path / "published.pdparams"))
    with pytest.raises(CheckpointError, match=r"no model\.json beside it; name its config \(-c\)"):
        checkpoint.restore(tmp_path / "published.pdparams")
    _, model = checkpoint.restore(tmp_path / "published", task)
    np.testing.assert_array_equal(model.head.weight.numpy(), net.head.weight.numpy())
    assert not model.training
    save(tmp_path / "other", CheckpointDescription("cls", {}), net.state_dict())
    with pytest.raises(CheckpointError, match="weights of the task 'cls', the config is of"):
        checkpoint.restore(tmp_path / "other", task)
    for text, message in (
        ("{", r"model\.json: not JSON: .* at line 1, column 2$"),
        ("[1]", r"model\.json: not a description of a checkpoint: .*expected a mapping, got list"),
        ('{"task": "a", "task": "b"}', r"model\.json: an object has the key 'task' twice$"),
        ('{"task": "a", "settings": {}, "epoch": -1}', r"epoch: expected 0 to .*, got -1$"),
    ):
        (tmp_path / "other" / "model.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.restore(tmp_path / "other")
    (tmp_path / "deployed").mkdir()
    (tmp_path / "deployed" / "deploy.yml").touch()
    with pytest.raises(CheckpointError, match=r"deployed: is an exported model; a checkpoint or"):
        checkpoint.restore(tmp_path / "deployed", task)


def test_pretrained_from_path_url_and_true(
    toy_settings: Any, tmp_path: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRISLIM_CACHE", str(tmp_path / "cache"))
    web, settings = serve(tmp_path / "web"), toy_settings()
    net = read_run(settings).task.build_model()
    paddle.save(net.state_dict(), str(tmp_path / "web" / "w.pdparams"))
    for source in (str(tmp_path / "web" / "w.pdparams"), f"{web}/w.pdparams"):
        settings["model"] = {"pretrained": source}
        task = read_run(settings).task
        model = task.build_model()
        assert checkpoint.load_pretrained(task, model) == []
        np.testing.assert_array_equal(model.conv.weight.numpy(), net.conv.weight.numpy())
    settings["model"] = {"pretrained": True}
    task = read_run(settings).task
    with pytest.raises(ConfigError, match=r"^model\.pretrained: no weights"):
        checkpoint.load_pretrained(task, task.build_model())
    settings["model"] = {"reinit": ["head.*"]}
    task = read_run(settings).task
    with pytest.raises(ConfigError, match=r"^model\.reinit: has no meaning"):
        checkpoint.load_pretrained(task, task.build_model())
