"""YAML of strangers: safe, strict, and bounded before anything is built of it."""

from __future__ import annotations

import re
import reprlib
from typing import Any

import yaml

MOST_DEPTH = 50
MOST_VALUES = 100_000  # with what aliases repeat
LARGEST_KEY = 2**60
TAG = "!"  # the key that holds the tag of a mapping
_MERGE = "tag:yaml.org,2002:merge"
_HUGE = 10**20


def parse_yaml(text: str) -> Any:
    """Read a YAML document.

    1e-3 is a number, a key written twice is refused.

    Raises:
        YAMLError: It is not YAML, or nested too deep, or aliases make too much of it.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deep") from error


def shown(value: Any) -> str:
    """Return a value as messages show it: as in Python, but shortened."""
    return _Shortened().repr(value)


class _Shortened(reprlib.Repr):
    """Only the beginning of values that aliases make huge is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 3, 6, 6, 4

    def repr_int(self, value: int, level: int) -> str:
        if abs(value) < _HUGE:
            return repr(value)
        return f"a whole number of {value.bit_length()} bits"

    def repr_instance(self, value: object, level: int) -> str:
        return " ".join(super().repr_instance(value, level).split())  # arrays write lines


class _Loader(yaml.SafeLoader):
    """Safe YAML with numbers like 1e-3, without repeated keys, bounded in depth and size.

    A mapping with a tag, as PaddleDetection writes `!Name {...}`, gets the name under the key `!`.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._checked: set[yaml.Node] = set()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            line = self.get_mark().line + 1
            raise yaml.YAMLError(f"line {line}: nested deeper than {MOST_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _measure(node, {}, set())
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # dates that are none, thousands of digits ...
            line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            text = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            raise yaml.YAMLError(f"line {line}: {text} is no {kind}") from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if node not in self._checked:  # merging puts keys of others in front
            self._checked.add(node)
            self._check_keys(node)
        super().flatten_mapping(node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key_node, _ in node.value:
            is_merge = key_node.tag == _MERGE
            key = key_node.value if is_merge else self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            # larger numbers can be chosen so that all have the same hash
            number = isinstance(key, (int, float))
            if not isinstance(key, str) and not (number and abs(key) <= LARGEST_KEY):
                raise yaml.YAMLError(f"line {line}: {shown(key)} cannot be a key")
            if key in seen:
                raise yaml.YAMLError(f"line {line}: the key {shown(key)} is written twice")
            seen.add(key)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _tagged(loader: _Loader, name: str, node: yaml.Node) -> dict[Any, Any]:
    if isinstance(node, yaml.MappingNode):
        return {TAG: name, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return {TAG: name}
    raise yaml.YAMLError(f"line {node.start_mark.line + 1}: !{name} is no mapping")


_Loader.add_multi_constructor("!", _tagged)


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]], above: set[Any]) -> None:
    """Add the values and levels of a node to the totals; each alias counts as a copy."""
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    line = node.start_mark.line + 1
    for child in children:
        if child in above or child is node:
            raise yaml.YAMLError(f"line {line}: holds itself, by an alias")
        if child not in known:
            _measure(child, known, above | {node})
    values = 1 + sum(known[child][0] for child in children)
    levels = 1 + max((known[child][1] for child in children), default=0)
    if values > MOST_VALUES:
        raise yaml.YAMLError(f"line {line}: more than {MOST_VALUES:,} values (aliases count)")
    if levels > MOST_DEPTH:
        raise yaml.YAMLError(f"line {line}: nested deeper than {MOST_DEPTH} levels, by aliases")
    known[node] = values, levels
