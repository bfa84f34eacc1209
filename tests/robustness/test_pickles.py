"""Pickles of arrays: read as they were written; nothing else is, and nothing in them runs."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.network.pickled_values import PickleError, RefusedError
from core.network.pickles import read_pickle

DTYPES = ["<f4", ">f4", "<f2", ">f8", "<i8", ">i2", "|u1", "|i1", "|b1", "<u4"]
NUMBERS = st.sampled_from(DTYPES).flatmap(
    lambda kind: arrays.arrays(np.dtype(kind), arrays.array_shapes(min_dims=0, min_side=0))
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
TREES = st.recursive(
    st.one_of(NUMBERS, PLAIN),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(), inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        equal = np.array_equal(one, other, equal_nan=other.dtype.kind == "f")
        return equal and one.dtype == other.dtype.newbyteorder("=") and one.shape == other.shape
    if isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in other)
    if isinstance(other, (list, tuple)):
        return type(one) is type(other) and all(map(same, one, other)) and len(one) == len(other)
    return bool(one == other)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), TREES, max_size=4), st.sampled_from([2, 3, 4]))
def test_what_was_pickled_is_read(tree: dict[str, Any], protocol: int) -> None:
    assert same(read_pickle(pickle.dumps(tree, protocol)), tree)


def test_states_of_paddle_are_read(tmp_path: Path) -> None:
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10)
    adam = paddle.optimizer.Adam(rate, parameters=net.parameters())
    net(paddle.ones([1, 3, 8, 8])).sum().backward()
    adam.step()
    for protocol in (2, 3, 4):
        paddle.save(adam.state_dict(), str(tmp_path / "a.pdopt"), protocol=protocol)
        read = read_pickle((tmp_path / "a.pdopt").read_bytes())
        assert read["LR_Scheduler"]["last_lr"] == 0.1
        assert read.keys() - {"StructuredToParameterName@@"} == adam.state_dict().keys()


def call(function: str, arguments: bytes, state: bytes = b"") -> bytes:
    """A pickle that calls a function by its name, and perhaps gives the result a state."""
    module, _, name = function.rpartition(".")
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + arguments + b"R" + state


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


RECONSTRUCT = "numpy.core.multiarray._reconstruct"
EMPTY_ARRAY = b"cnumpy\nndarray\nK\x00\x85C\x01b\x87"
FLOATS = call("numpy.dtype", text("f4") + b"\x89\x88\x87", b"(K\x03X\x01\x00\x00\x00<")[2:]
FLOATS += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    state = b"(K\x01" + shape + dtype + b"\x89C" + bytes([len(content)]) + content + b"tb"
    return call(RECONSTRUCT, EMPTY_ARRAY, state)


def dtype(code: str, state: bytes = b"") -> bytes:
    return call("numpy.dtype", text(code) + b"\x89\x88\x87", state)[2:]


ATTACKS = {
    "system": call("os.system", text("touch hacked") + b"\x85"),
    "eval": call("builtins.eval", text("open('hacked', 'w')") + b"\x85"),
    "getattr": call("builtins.getattr", b"cnumpy\ndtype\n" + text("mro") + b"\x86"),
    "load": call("numpy.load", text("evil.npy") + b"\x85"),
    "memmap": call("numpy.memmap", text("/etc/passwd") + b"\x85"),
    # an array class called as a function reads foreign memory: ndarray(shape, dtype, ...)
    "ndarray as a function": call("numpy.ndarray", b"M\xff\xff\x85" + text("u1") + b"\x86"),
    "array of objects": array(b"K\x01\x85", dtype("O8"), b"\x01" * 8),
    "state of objects": array(b"K\x01\x85", dtype("O8", b"(K\x03X\x01\x00\x00\x00|tb"), b"A" * 8),
    "fields": dtype("V8", b"(K\x03X\x01\x00\x00\x00|N}N\x8a\x01\x08K\x01K\x00tb"),
    "text": array(b"K\x01\x85", dtype("U2"), b"abcdefgh"),
    "dates": array(b"K\x01\x85", dtype("M8"), b"abcdefgh"),
    "complex": array(b"K\x01\x85", dtype("c8"), b"abcdefgh"),
    "no byte order": array(b"K\x01\x85", dtype("f4"), b"abcd"),
    "far offset": array(b"K\x01\x85", FLOATS.replace(b"K\x00tb", b"J\xff\xff\xff\x7ftb"), b"abcd"),
    "size beyond its bytes": array(b"J\xff\xff\xff\x7f\x85", FLOATS, b"abcd"),
    "negative size": array(b"J\xff\xff\xff\xff\x85", FLOATS, b"abcd"),
    "subclass": call(RECONSTRUCT, b"cnumpy\ndtype\nK\x00\x85C\x01b\x87"),
    "reserved memory": call(RECONSTRUCT, b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87"),
    "state of a function": b"\x80\x02cnumpy\ndtype\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "state of a class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "state of a dictionary": b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a list twice": b"\x80\x02]q\x00h\x00\x86.",
    "tuples that double": b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b".",
    "containers in containers": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "tuples in tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "keys that share a hash": b"\x80\x02}(" + b"".join(
        b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"N" for n in range(100_000)
    ) + b"u.",
    "a name as a value": b"\x80\x02cnumpy\ndtype\n.",
    "bytes again and again": b"\x80\x02X\xe8\x03\x00\x00" + b"a" * 1000 + b"q\x00"
    + b"(" + (b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R") * 200 + b"t.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent object": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "a mark as a value": b"\x80\x02(\x85.",
    "nothing": b"",
    "no end": b"\x80\x02}",
}  # fmt: skip


def finished(attack: bytes) -> bytes:
    return attack if not attack or attack.endswith((b".", b"}")) else attack + b"."


@pytest.mark.parametrize("name", ATTACKS)
def test_anything_else_is_refused(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.npy").write_bytes(b"")
    with pytest.raises(PickleError):
        read_pickle(finished(ATTACKS[name]))
    assert [each.name for each in tmp_path.iterdir()] == ["evil.npy"]


def test_the_parts_of_the_attacks_are_right() -> None:
    # or they would be refused for another reason than the one they are meant for
    assert read_pickle(array(b"K\x01\x85", FLOATS, b"\0\0\x80?") + b".").tolist() == [1.0]
    with pytest.raises(RefusedError, match=r"asks for os\.system"):
        read_pickle(finished(ATTACKS["system"]))
    with pytest.raises(RefusedError, match="numbers of the type 'O8'"):
        read_pickle(finished(ATTACKS["array of objects"]))
    with pytest.raises(PickleError, match="bytes do not fit its shape"):
        read_pickle(finished(ATTACKS["size beyond its bytes"]))
    with pytest.raises(RefusedError, match="unusual type of numbers"):
        read_pickle(finished(ATTACKS["far offset"]))
    with pytest.raises(RefusedError, match="repeats its content"):
        read_pickle(finished(ATTACKS["bytes again and again"]))


FUZZ = """
import pickle, pickletools, random, resource, sys
import numpy as np
from core.network.pickled_values import PickleError
from core.network.pickles import read_pickle

names = [("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("numpy", "ndarray"),
         ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"), ("builtins", "set"),
         ("numpy.core.multiarray", "scalar"), ("_codecs", "encode"), ("builtins", "getattr"),
         ("collections", "OrderedDict"), ("builtins", "tuple"), ("subprocess", "Popen")]
net = {f"layer{i}.weight": np.arange(i * 6).reshape(2, -1).astype(kind)
       for i, kind in enumerate(("f4", "f8", "i8", "u1", "?", "f2"), 1)}
whole = {**net, "plain": [1, -2, 2.5, None, True, "x" * 40, (1, (2, 3)), {"a": {1, 2}}],
         "number": np.float64(2.5)}
kept = [pickle.dumps(whole, protocol) for protocol in (2, 3, 4)]
codes = [bytes([each.code.encode("latin1")[0]]) for each in pickletools.opcodes]

def mutated(rng):
    content = bytearray(rng.choice(kept))
    places = [place for _, _, place in pickletools.genops(bytes(content))]
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.choice(places) % len(content)
        action = rng.randrange(7)
        if action == 0:
            content[place] = rng.choice(codes)[0]
        elif action == 1:
            content[place:place] = rng.choice(codes)
        elif action == 2:
            module, name = rng.choice(names)
            content[place:place] = f"c{module}\\n{name}\\n".encode()
        elif action == 3:
            other = rng.choice(places) % len(content)
            content[place:place] = content[min(place, other):max(place, other)][:400]
        elif action == 4:
            del content[place:place + rng.randrange(1, 20)]
        elif action == 5:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            content[place:place] = rng.choice((b"R", b"b", b"o", b"\\x81", b"(", b"t", b"N", b"2"))
        if not content:
            return b"."
    return bytes(content)

def plain(value):
    if isinstance(value, dict):
        return all(map(plain, value)) and all(map(plain, value.values()))
    if isinstance(value, (list, tuple, set)):
        return all(map(plain, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "biuf" and (value.nbytes < 10**6)
    return value is None or type(value) in (bool, int, float, str, bytes)

watched, reading = [], False
def watch(event, arguments):
    if reading and not event.startswith(("object.__getattr__", "sys._getframe")):
        watched.append((event, arguments))
sys.addaudithook(watch)
read = 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for seed in range(int(sys.argv[1])):
    content, value = mutated(random.Random(seed)), None
    reading = True
    try:
        value = read_pickle(content)
        read += 1
    except PickleError:
        pass
    finally:
        reading = False
    assert plain(value), (seed, value)
    assert not watched, (seed, watched)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 200_000, grown
print(read)
"""


def test_mutated_pickles_neither_crash_nor_run_anything(child: Any, tmp_path: Path) -> None:
    (tmp_path / "fuzz.py").write_text(FUZZ)
    done = child(tmp_path / "fuzz.py", 20_000, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 500  # some mutations leave a good file
    assert [each.name for each in tmp_path.iterdir()] == ["fuzz.py"]
