"""Wrong settings of all kinds, from right ones; each by a random generator alone."""

from __future__ import annotations

import copy
import datetime
import random
from typing import Any

Settings = dict[str, Any]


def values() -> list[Any]:
    """Return values that some setting will not bear."""
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    return [
        *(None, True, False, "", " ", "a", "x" * 10_000, "\0", "a\0b", "\ud800", "é", "1", "nan"),
        *(float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, 1e-9, 0.0, -0.0, 0.5),
        *(0, 1, 2, 3, 7, -1, -1000, 255, 256, 10**6, 2**31, 2**32, 2**63, 2**64, 10**400, 1.5, 5.0),
        *([], {}, [[]], [0], [None], [1, 2], [0.5, 0.5], [1, 2, 3], ["a"], {"kind": []}, [{}]),
        *({"kind": "adamw", "beta1": 1}, {"kind": "momentum", "momentum": 5}, {"kind": None}),
        *({"kind": "detail"}, {"kind": "dice", "smooth": 0}, {"kind": "poly", "power": -1}),
        *({"a": {"b": {"c": 1}}}, {1: 2}, {"": 0}, deep, datetime.date(2020, 1, 1), b"bytes"),
        *({"x" * 3000: 1}, list(range(3000)), "/dev/zero", "../..", "fifo", "*", "[", "!!int x"),
    ]


def another(value: Any, rng: random.Random) -> Any:
    """Return another value, mostly of the same type."""
    same = [each for each in values() if type(each) is type(value)]
    return rng.choice(same if same and rng.random() < 0.7 else values())


def places(settings: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in nested settings."""
    found = [above] if above else []
    if isinstance(settings, dict):
        for key, value in settings.items():
            found += places(value, (*above, key))
    elif isinstance(settings, list):
        for index, value in enumerate(settings):
            found += places(value, (*above, index))
    return found


def spoil(settings: Settings, rng: random.Random) -> Settings:
    """Return settings with up to three values replaced, removed, scaled, misspelt or moved."""
    spoilt = copy.deepcopy(settings)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        known = places(spoilt)
        if not known:
            break
        *above, key = rng.choice(known)
        holder: Any = spoilt
        for part in above:
            holder = holder[part]
        _change(holder, key, rng)
    return spoilt


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    value, way = holder[key], rng.random()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = number and -1e300 < value < 1e300
    if number and way < 0.6:
        power = rng.choice([1, 1, 2, 12]) * rng.uniform(-1, 1)
        scaled = value * 10.0**power * rng.choice([1, 1, 1, -1])
        holder[key] = round(scaled) if isinstance(value, int) and rng.random() < 0.9 else scaled
    elif way < 0.8:
        holder[key] = another(value, rng)
    elif way < 0.85:
        holder[key] = [value] if rng.random() < 0.5 else {"kind": value}
    elif way < 0.93:
        del holder[key]
    elif isinstance(holder, dict):
        holder[f"{key}{rng.choice(['', 's', '.', ' ', chr(0)])}x"] = value


def spoilt_override(settings: Settings, rng: random.Random) -> str:
    """Return an assignment for the command line, of a setting that may not exist."""
    place = rng.choice([each for each in places(settings) if isinstance(each[-1], str)])
    path, value, way = [str(part) for part in place], settings, rng.random()
    for part in place:
        value = value[part]
    if way < 0.1:
        path = path[: rng.randint(0, len(path))]
    elif way < 0.2:
        path += ["x"] * rng.choice([1, 2, 2000])
    text = rng.choice(HOSTILE) if rng.random() < 0.3 else repr(another(value, rng))
    equals = "=" if rng.random() < 0.9 else rng.choice(["==", ""])
    return f"{'.'.join(path)}{equals}{text}"


def spoil_text(text: str, rng: random.Random) -> bytes:
    """Return the bytes of a YAML file that was damaged, or holds what YAML readers stumble over."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        place, way = rng.randrange(len(lines) + 1), rng.random()
        if way < 0.4:
            lines.insert(place, rng.choice(HOSTILE))
        elif way < 0.7 and place < len(lines):
            key = lines[place].partition(":")[0]
            lines[place] = f"{key}: {rng.choice(HOSTILE)}"
        elif place < len(lines):
            lines[place] = lines[place][: rng.randint(0, len(lines[place]))]
    content = bytearray("\n".join(lines).encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice([0, 0, 1, 5])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    marks = [b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\0"]
    return rng.choice(marks) + bytes(content)


def _bomb() -> str:
    """Return lists of lists by aliases, 10 ** 9 values in all."""
    levels = ["&l0 [x, x, x, x, x, x, x, x, x, x]"]
    for number in range(1, 9):
        levels.append(f"&l{number} [{', '.join([f'*l{number - 1}'] * 10)}]")
    return f"[{', '.join(levels)}]"


HOSTILE = (
    *("2020-13-45", "2020-01-01", "!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!int ''"),
    *("!!binary x", "!!set {a}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!null x", "!!seq {}"),
    *("!!python/object/apply:os.system [x]", "!x y", "&a [*a]", "&a {x: *a}", "*none", "<<: 3"),
    *(
        "{<<: &m {kind: x}, kind: y}",
        "{<<: [&n {a: 1}, *n]}",
        "{[1]: 2}",
        "{null: 1}",
        "{1: 1, 1: 2}",
    ),
    *(
        "9" * 5000,
        "0x" + "f" * 5000,
        "1" + ":59" * 400,
        "1e400",
        "-1e400",
        ".nan",
        ".inf",
        "1e-400",
    ),
    *("[" * 5000, "{a: " * 5000, "- " * 3000, "? " * 500, "'", '"', '"\\0"', '"\\ud800"', "|", ">"),
    *("%YAML 9.9", "---", "--- a\n--- b", "\t", "#", "=", "~", "@", "`", ": :", "[", "]", "}", ""),
    *("_base_: /dev/zero", "_base_: fifo", "_base_: loop", '_base_: "a\\0b"', "_base_: case.yml"),
    *("_base_: [[]]", "_base_: .", "train=3", _bomb(), "{" + "a: 1, " * 2000 + "}", "3", "a"),
)
