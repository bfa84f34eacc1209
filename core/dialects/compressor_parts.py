"""What strategies of PaddleSlim 1.x refer to by name: `pruners`, `distillers`, `controllers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from core.dialects.foreign import Section, Settings
from core.errors import ConfigError
from core.settings.config import suggest


@dataclass(frozen=True)
class RegisteredPruner:
    """A registered pruner: its criterion, and the weights it is for."""

    criterion: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class RegisteredParts:
    """Parts of a file that its strategies refer to by name."""

    pruners: Mapping[str, RegisteredPruner]
    distillers: Mapping[str, list[Settings]]
    controllers: Mapping[str, Settings]


def sections_of(root: Section, key: str) -> list[tuple[str, Section]]:
    """Return names and sections of what stands below a key."""
    section = root.section(key)
    return [(str(name), section.section(name)) for name in section.content]


def class_of(section: Section, known: Mapping[str, Any]) -> str:
    """Return the class that a section names.

    Raises:
        ConfigError: There is no such class.
    """
    name: str = section.take("class", str)
    if name not in known:
        raise ConfigError(f"{section.where('class')}: no class {name!r}{suggest(name, [*known])}")
    return name


def _pruner(section: Section) -> RegisteredPruner:
    class_of(section, {"StructurePruner": None})
    axes = section.take("pruning_axis", dict[str, int], {"*": 0})
    for pattern, axis in axes.items():
        if axis != 0:
            raise ConfigError(
                f"{section.where('pruning_axis')}.{pattern}: expected 0, filters; what reads them "
                f"is cut along by itself; got {axis}"
            )
    criteria = section.take("criterions", dict[str, str], {"*": "l1_norm"})
    if len(set(criteria.values())) > 1:
        raise ConfigError(
            f"{section.where('criterions')}: several criteria; give each a pruner, with a strategy "
            "of its own"
        )
    section.finish()
    patterns = [each for each in (*axes, *criteria) if each != "*"]
    return RegisteredPruner(
        next(iter(criteria.values()), "l1_norm"), tuple(dict.fromkeys(patterns))
    )


def _controller(section: Section) -> Settings:
    class_of(section, {"SAController": None})
    settings = {
        "search_cooling": section.take("reduce_rate", float, 0.85),
        "search_temperature": section.take("init_temperature", float, 1024.0),
    }
    # every plan is scaled until it holds the limit: there is nothing to try again
    section.put_aside("max_iter_number", "range_table", "init_tokens", "constrain_func")
    section.finish()
    return settings


def _distiller(section: Section) -> list[Settings]:
    kind = class_of(section, DISTILLERS)
    weight = section.take("distillation_loss_weight", float, 1.0)
    terms = [{**term, "weight": weight} for term in DISTILLERS[kind](section)]
    section.finish()
    return terms


def _fsp(section: Section) -> list[Settings]:
    pairs = list[tuple[str, str]]
    teachers, students = section.take("teacher_pairs", pairs), section.take("student_pairs", pairs)
    if len(teachers) != len(students):
        raise ConfigError(
            f"{section.where('student_pairs')}: expected as many as teacher_pairs, "
            f"{len(teachers)}, got {len(students)}"
        )
    return [
        {"kind": "fsp", "student": list(own), "teacher": list(other)}
        for own, other in zip(students, teachers)
    ]


def _maps(section: Section) -> Settings:
    return {
        "student": section.take("student_feature_map", str),
        "teacher": section.take("teacher_feature_map", str),
    }


def _l2(section: Section) -> list[Settings]:
    return [{"kind": "l2", **_maps(section), "adapter": False}]


def _soft_label(section: Section) -> list[Settings]:
    return [
        {
            "kind": "soft_label",
            "form": "cross_entropy",
            **_maps(section),
            "student_temperature": section.positive("student_temperature", 1.0),
            "teacher_temperature": section.positive("teacher_temperature", 1.0),
        }
    ]


DISTILLERS: Mapping[str, Callable[[Section], list[Settings]]] = MappingProxyType(
    {"FSPDistiller": _fsp, "L2Distiller": _l2, "SoftLabelDistiller": _soft_label}
)


def read_registered(root: Section) -> RegisteredParts:
    """Read the parts that strategies may refer to.

    Raises:
        ConfigError: A key is unknown, missing or wrong.
    """
    return RegisteredParts(
        {name: _pruner(each) for name, each in sections_of(root, "pruners")},
        {name: _distiller(each) for name, each in sections_of(root, "distillers")},
        {name: _controller(each) for name, each in sections_of(root, "controllers")},
    )
