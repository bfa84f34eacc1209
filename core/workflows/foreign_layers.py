"""Put paths of layers where a recipe from another project names variables of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddle.nn import Layer

from core.dialects.foreign import Settings, Translation
from core.dialects.variables import LISTED, Variables
from core.distill.teacher import Teacher
from core.errors import ConfigError
from core.graph.trace import trace
from core.prune.planning.plan import matching_weights
from core.prune.pruner import fixed_specs
from core.task import Task

SIDES = ("student", "teacher")


def with_layers(
    recipe: Mapping[str, Any],
    translation: Translation,
    task: Task,
    teachers: Sequence[Settings],
) -> Settings:
    """Return a recipe with the layers that its names mean.

    Args:
        recipe: Recipe of the translation.
        translation: Has the tables of the file.
        task: Task of the student.
        teachers: The first one is asked for the layers of the teacher.

    Raises:
        ConfigError: A name means no layer.
    """
    steps = [dict(each) for each in recipe.get("strategies", [])]
    exports = [dict(each) for each in recipe.get("exports", [])]
    table = translation.layers
    for index, step in enumerate(steps):
        if "pruned_params" in step:
            step["pruned_params"] = [table.get(name, name) for name in step["pruned_params"]]
            _check_weights(step["pruned_params"], task, f"strategies.{index}.pruned_params")
    if not any(step.get("losses") for step in steps) and not any("ending" in e for e in exports):
        return {**recipe, "strategies": steps}
    known = {"student": variables_of("student", task, task.build_model(), table)}
    if any(step.get("losses") for step in steps) and teachers:
        teacher = Teacher(teachers[0], task)
        other = translation.teacher_layers
        known["teacher"] = variables_of(teacher.title, teacher.task, teacher.model, other)
    for index, step in enumerate(steps):
        if "losses" in step:
            where = f"strategies.{index}.losses"
            step["losses"] = [
                _term(term, known, f"{where}.{number}")
                for number, term in enumerate(step["losses"])
            ]
    for index, export in enumerate(exports):
        if "ending" in export:
            names = export["ending"].split(",")
            where = f"exports.{index}.ending"
            layers = [_ending(name, known["student"], where) for name in names]
            export["ending"] = ",".join(layers)
    whole = {**recipe, "strategies": steps}
    return {**whole, "exports": exports} if exports else whole


def _check_weights(patterns: Sequence[str], task: Task, where: str) -> None:
    """Refuse patterns on parameters of a program of 1.x that mean nothing here.

    Raises:
        ConfigError: One matches no weight.
    """
    parameters = task.build_model().named_parameters()
    names = sorted(name for name, weight in parameters if len(weight.shape) > 1)
    for pattern in patterns:
        try:
            matching_weights(pattern, names, where)
        except ConfigError:
            raise ConfigError(
                f"{where}: {pattern!r} matches no weight of the network; say which it means under "
                f"layers, as `layers: {{{pattern!r}: {names[0]!r}}}`, by a glob or a regular "
                f"expression on {', '.join(names[:LISTED])}"
                + (f", and {len(names) - LISTED} more" if len(names) > LISTED else "")
            ) from None


def variables_of(title: str, task: Task, model: Layer, table: Mapping[str, str]) -> Variables:
    """Trace a network and name the outputs of its layers."""
    traced = trace(model, fixed_specs(task))
    block = traced.program.global_block()
    shapes = {name: tuple(block.var(name).shape) for name in set(traced.made.values())}
    return Variables(title, traced.made, shapes, table)


def _term(term: Mapping[str, Any], known: Mapping[str, Variables], where: str) -> Settings:
    found = dict(term)
    for side in SIDES:
        if side not in found or side not in known:
            continue
        names = found[side]
        if isinstance(names, str):
            found[side] = known[side].layer(names, f"{where}.{side}")
        else:
            found[side] = [known[side].layer(name, f"{where}.{side}") for name in names]
    return found


def _ending(name: str, known: Variables, where: str) -> str:
    try:
        return known.layer(name, where)
    except ConfigError:
        if name not in known.table:
            raise
        return known.table[name]  # an ending that the task itself knows
