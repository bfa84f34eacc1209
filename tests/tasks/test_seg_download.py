"""Data sets that are downloaded."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from core.errors import DataError
from tasks.seg.download import ensure_downloaded
from tests.networks.seg_data import RNG, config_for


@pytest.fixture
def folder(tmp_path):
    """Four pairs of different sizes, listed for both splits."""
    lines = []
    for i, (width, height) in enumerate([(20, 12), (14, 18), (20, 12), (16, 16)]):
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = RNG.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"{i}_label.png"), label)
        lines.append(f"{i}.png {i}_label.png")
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def pack_tars(target, folder):
    """Write tars with links, with members that lead outside, and large compressed ones."""

    def add(packed, name, kind=tarfile.REGTYPE, link=""):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        content = b"a b\n" if kind == tarfile.REGTYPE else b""
        member.size = len(content)
        packed.addfile(member, io.BytesIO(content))

    for name, member in {
        "links": ("./train.txt",),
        "up": ("../train.txt",),
        "absolute": (str(target / "outside.txt"),),
        "device": ("null", tarfile.CHRTYPE),
        "nowhere": ("passwd", tarfile.SYMTYPE, "/etc/passwd"),
        "twice": ("train.txt/x",),
    }.items():
        with tarfile.open(target / f"{name}.tar", "w") as packed:
            add(packed, "train.txt")
            add(packed, *member)
            if name == "links":
                add(packed, "set/copy.txt", tarfile.LNKTYPE, "train.txt")
                add(packed, "set/other.txt", tarfile.SYMTYPE, "../train.txt")
    for kind in ("gz", "xz", "bz2"):
        with tarfile.open(target / f"big.tar.{kind}", f"w:{kind}") as packed:
            packed.add(folder / "train.txt", "train.txt")
            noise = tarfile.TarInfo("noise")
            noise.size = 40_000
            packed.addfile(noise, io.BytesIO(np.random.default_rng(0).bytes(noise.size)))


@pytest.fixture
def archives(tmp_path, folder):
    """The folder, packed as zip and as tar, and a stand-in for the network."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for name in ("train.txt", "val.txt", "0.png", "0_label.png"):
            packed.write(folder / name, f"set/{name}")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as packed:
        packed.add(folder / "train.txt", "train.txt")
    pack_tars(tmp_path, folder)
    whole = (tmp_path / "set.zip").read_bytes()
    start = whole.index(b"set/0.png") + len("set/0.png")
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("train.txt", b"0.png 0_label.png\n" * 200)
    broken = bytearray((tmp_path / "deflated.zip").read_bytes())
    broken[39:49] = b"\xff" * 10
    (tmp_path / "broken.zip").write_bytes(broken)
    (tmp_path / "crc.zip").write_bytes(whole[:start] + b"xx" + whole[start + 2 :])
    for kind in ("gz", "xz", "bz2"):
        broken = bytearray((tmp_path / f"big.tar.{kind}").read_bytes())
        broken[len(broken) // 2 : len(broken) // 2 + 50] = b"\xff" * 50
        (tmp_path / f"broken.tar.{kind}").write_bytes(broken)
        (tmp_path / f"short.tar.{kind}").write_bytes(broken[: len(broken) // 2])
    plain = bytearray((tmp_path / "links.tar").read_bytes())
    (tmp_path / "short.tar").write_bytes(plain[: len(plain) // 20])
    plain[512 * 2] ^= 0xFF  # the second header
    (tmp_path / "header.tar").write_bytes(plain)
    (tmp_path / "page.html").write_text("not found")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        packed.writestr("readme.txt", "hello")
    return tmp_path


@pytest.fixture
def served(serve, archives):
    """Return the address at which the archives are."""
    return serve(archives)


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "big.tar.xz", "big.tar.bz2"])
def test_download(tmp_path, served, name, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", None)  # has no filter in older releases
    root = tmp_path / "data" / "set"
    data = config_for(root, data={"download": f"{served}/{name}"}).data
    ensure_downloaded(data)
    assert (root / "train.txt").is_file()
    assert os.listdir(root.parent) == ["set"]
    ensure_downloaded(data)


def test_links_in_a_tar_become_copies(tmp_path, served):
    root = tmp_path / "data" / "set"
    ensure_downloaded(config_for(root, data={"download": f"{served}/links.tar"}).data)
    for name in ("train.txt", "set/copy.txt", "set/other.txt"):
        assert not (root / name).is_symlink()
        assert (root / name).read_text() == "a b\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.zip", r"^data\.download: .*absent\.zip: cannot be fetched: HTTP 404.*by hand"),
        ("page.html", r"^data\.download: .*page\.html is neither a zip nor a tar"),
        ("other.zip", r"^data\.download: .*other\.zip holds no train\.txt"),
        ("up.tar", r"up\.tar cannot be unpacked: \.\./train\.txt lies outside"),
        ("absolute.tar", r"absolute\.tar cannot be unpacked: .*outside\.txt lies outside"),
        ("device.tar", r"device\.tar cannot be unpacked: null is neither a file nor a link"),
        ("nowhere.tar", r"nowhere\.tar cannot be unpacked: passwd is a link to nothing"),
        ("header.tar", r"header\.tar cannot be unpacked: it is corrupt in the middle"),
        *(
            (name, rf"^data\.download: .*{name} (cannot be unpacked: .|is neither a zip nor)")
            for name in (
                *("broken.zip", "crc.zip", "twice.tar", "short.tar"),
                *("broken.tar.gz", "broken.tar.xz", "broken.tar.bz2"),
                *("short.tar.gz", "short.tar.xz", "short.tar.bz2"),
            )
        ),
    ],
)
def test_download_that_fails_leaves_nothing(tmp_path, served, name, message):
    root = tmp_path / "data" / "set"
    data = config_for(root, data={"download": f"{served}/{name}"}).data
    with pytest.raises(DataError, match=message):
        ensure_downloaded(data)
    assert os.listdir(root.parent) == []
