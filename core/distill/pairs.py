"""Pair the layers of student and teacher for each term, and compare them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.distill.adapters import Adapter, Generator, resize
from core.distill.taps import OUTPUT, Side
from core.distill.terms import L2, Cwd, DistMse, Fsp, Mgd, SoftLabel, Term
from core.errors import ConfigError
from core.task import Batch, Losses

LISTED = 30  # candidates in a message


@dataclass(frozen=True)
class Pair:
    """A term with its layers: one of each network, or two for a section."""

    name: str  # name of the loss term in the log
    term: Term
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    where: str  # the setting it comes from, for messages


def pair_up(
    terms: Sequence[Term], student: Side, teacher: Side, batch: Batch, setting: str
) -> list[Pair]:
    """Find the layers of all terms; without terms, those that suit the tasks' own points.

    Raises:
        ConfigError: A glob matches nothing, or there is nothing a term could compare.
    """
    pairs: list[Pair] = []
    for number, term in enumerate(terms or default_terms(student, teacher, batch)):
        where = f"{setting}.{number} ({term.kind})"
        for ours, theirs in _layers(term, student, teacher, where):
            names = [pair.name for pair in pairs]
            count = sum(name.split("#")[0] == term.kind for name in names)
            name = f"{term.kind}#{count + 1}" if count else term.kind
            pairs.append(Pair(name, term, ours, theirs, where))
    return pairs


def default_terms(student: Side, teacher: Side, batch: Batch) -> list[Term]:
    """Choose one term by what the tasks say their outputs are.

    Class scores: softened probabilities, or channel-wise where they are a map. Heatmaps: as in
    the HRNet-Keypoint distillation. Else the squared difference of features.
    """
    if _common_point(("class_logits",), student, teacher) is not None:
        layer = _point(student, "class_logits")
        is_map = layer is not None and int(np.prod(student.shapes[layer][2:])) > 1
        return [Cwd()] if is_map else [SoftLabel(student_temperature=2.0, teacher_temperature=2.0)]
    if _common_point(("heatmap",), student, teacher) is not None:
        return [DistMse(use_target_weight=DistMse.weight_key in batch)]
    return [L2()]


class Comparison:
    """The terms between two networks, with the adapters they need.

    Args:
        pairs: Pairs of outputs to compare.
        student: Shapes of the one that learns.
        teacher: Shapes of the other.

    Raises:
        ConfigError: Shapes that a term cannot compare.
    """

    def __init__(self, pairs: Sequence[Pair], student: Side, teacher: Side) -> None:
        self.pairs = list(pairs)
        self._aligned_at = student.aligned_at
        self._layers: dict[str, Layer] = {}
        for pair in self.pairs:
            shapes = [
                (_shape(pair.term, student.shapes[ours]), _shape(pair.term, teacher.shapes[theirs]))
                for ours, theirs in zip(pair.student, pair.teacher)
            ]
            for index, (ours, theirs) in enumerate(shapes):
                _check_shapes(pair, index, ours, theirs, student, teacher)
                if pair.term.fits == "adapt":
                    adapter = Adapter(ours[1], theirs[1], len(ours) == 4, self._aligned_at)
                    self._layers[f"{pair.name}.{index}"] = adapter
            if isinstance(pair.term, Fsp):
                _check_section(pair.where, pair.student, student)
                _check_section(pair.where, pair.teacher, teacher)
            if isinstance(pair.term, Mgd):
                generator = Generator(shapes[0][1][1], pair.term.masked)
                self._layers[f"{pair.name}.generator"] = generator

    def losses(self, student: Batch, teacher: Batch, batch: Batch) -> Losses:
        """Return the weighted terms by name, computed in single precision even under AMP.

        Args:
            student: Outputs of the student's layers, by path.
            teacher: Outputs of the teacher, likewise.
            batch: The batch they were given.
        """
        with paddle.amp.auto_cast(enable=False):
            return {pair.name: self._term(pair, student, teacher, batch) for pair in self.pairs}

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights of the adapters, of any shape, by path."""
        return {
            f"{path}.{name}": tensor
            for path, layer in self._layers.items()
            for name, tensor in layer.named_parameters()
        }

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the weights of the adapters as arrays of any shape, by path."""
        return {name: tensor.numpy() for name, tensor in self.parameters().items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over weights, of any shape, of an earlier comparison where they still fit."""
        for name, tensor in self.parameters().items():
            if name in state and list(state[name].shape) == list(tensor.shape):
                tensor.set_value(state[name])

    def _term(self, pair: Pair, student: Batch, teacher: Batch, batch: Batch) -> Tensor:
        fitted = [
            self._fit(pair, index, student[own], teacher[other])
            for index, (own, other) in enumerate(zip(pair.student, pair.teacher))
        ]
        ours, theirs = zip(*fitted)
        return pair.term.compute(ours, theirs, batch) * pair.term.weight

    def _fit(self, pair: Pair, index: int, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        if pair.term.fits == "classes":
            ours, theirs = _flat(ours), _flat(theirs)
            if ours.ndim == 4:
                theirs = resize(theirs, ours.shape[2:], self._aligned_at)
            return ours, theirs
        if pair.term.fits == "resize":
            return resize(ours, theirs.shape[2:], self._aligned_at), theirs
        # a flow does not depend on the size of its maps
        like = ours if isinstance(pair.term, Fsp) else theirs
        ours = self._layers[f"{pair.name}.{index}"](ours, like)
        if isinstance(pair.term, Mgd):
            ours = self._layers[f"{pair.name}.generator"](ours)
        return ours, theirs


def _layers(
    term: Term, student: Side, teacher: Side, where: str
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    if term.key is not None:
        output = OUTPUT + term.key
        for side in (student, teacher):
            if output not in side.shapes:
                raise _nothing(f"{where}.key", term.key, side, OUTPUT)
            _check_kind(term, output, side, f"{where}.key")
        return [((output,), (output,))]
    if isinstance(term, Fsp):
        ours = tuple(_only(glob, student, f"{where}.student") for glob in term.student)
        theirs = tuple(_only(glob, teacher, f"{where}.teacher") for glob in term.teacher)
        return [(ours, theirs)]
    if term.student is None and term.teacher is None:
        kind = _common_point(term.points, student, teacher)
        if kind is None:
            raise ConfigError(_no_point(term, student, teacher, where))
        mine, other = _point(student, kind), _point(teacher, kind)
        return [((str(mine),), (str(other),))]
    matched_ours = _find(term, term.student, student, f"{where}.student")
    matched_theirs = _find(term, term.teacher or term.student, teacher, f"{where}.teacher")
    if len(matched_ours) != len(matched_theirs):
        raise ConfigError(
            f"{where}: {term.student!r} matches {len(matched_ours)} layers of the student, "
            f"{term.teacher or term.student!r} {len(matched_theirs)} of the {teacher.title}; they "
            "are compared one by one"
        )
    return [((one,), (two,)) for one, two in zip(matched_ours, matched_theirs)]


def _find(term: Term, glob: str | None, side: Side, where: str) -> list[str]:
    if glob is None:
        kind = next((kind for kind in term.points if _point(side, kind)), None)
        if kind is None:
            raise ConfigError(f"{where}: the {side.title} has no point for it; name a layer")
        return [str(_point(side, kind))]
    found = fnmatch.filter([path for path in side.shapes if not path.startswith(OUTPUT)], glob)
    if not found:
        raise _nothing(where, glob, side)
    for path in found:
        _check_kind(term, path, side, where)
    return found


def _check_kind(term: Term, path: str, side: Side, where: str) -> None:
    """Refuse a loss on probabilities for a heatmap: a point of the task, or its only output."""
    kinds = {point.layer: point.output for point in side.points}
    outputs_are_heatmaps = "heatmap" in kinds.values() and "class_logits" not in kinds.values()
    is_heatmap = kinds.get(path) == "heatmap" or (path.startswith(OUTPUT) and outputs_are_heatmaps)
    if is_heatmap and term.points == ("class_logits",):
        raise ConfigError(
            f"{where}: {path.removeprefix(OUTPUT)} is a heatmap, {term.kind} is for class "
            "probabilities; heatmaps take l1, l2, smooth_l1 or dist_mse"
        )


def _only(glob: str, side: Side, where: str) -> str:
    found = fnmatch.filter([path for path in side.shapes if not path.startswith(OUTPUT)], glob)
    if not found:
        raise _nothing(where, glob, side)
    if len(found) > 1:
        raise ConfigError(f"{where}: {glob!r} matches {len(found)} layers, the end is one")
    return found[0]


def _nothing(where: str, glob: str, side: Side, begins: str = "") -> ConfigError:
    """Say that a pattern matches nothing, and list the names, the most similar first."""
    names = [
        path.removeprefix(OUTPUT)
        for path in side.shapes
        if path.startswith(OUTPUT) == (begins == OUTPUT)
    ]
    near = difflib.get_close_matches(glob, names, n=LISTED, cutoff=0.3)
    listed = [*near, *(name for name in names if name not in near)][:LISTED]
    shown = ", ".join(f"{name} {side.shapes[begins + name]}" for name in listed)
    more = f", and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    return ConfigError(f"{where}: {glob!r} matches nothing in the {side.title}: {shown}{more}")


def _common_point(kinds: Sequence[str], student: Side, teacher: Side) -> str | None:
    both = (kind for kind in kinds if _point(student, kind) and _point(teacher, kind))
    return next(both, None)


def _point(side: Side, kind: str) -> str | None:
    """Return the first point of a kind whose layer runs and returns a tensor."""
    fitting = (p.layer for p in side.points if p.output == kind and p.layer in side.shapes)
    return next(fitting, None)


def _no_point(term: Term, student: Side, teacher: Side, where: str) -> str:
    wanted = " or ".join(term.points) or "point of its own"
    given = {side.title: [point.output for point in side.points] for side in (student, teacher)}
    text = ", ".join(f"the {title} has {', '.join(kinds)}" for title, kinds in given.items())
    hint = "; heatmaps take l1, l2, smooth_l1 or dist_mse" if "heatmap" in text else ""
    return f"{where}: compares {wanted}, but {text}; name layers with student and teacher{hint}"


def _shape(term: Term, shape: list[int]) -> list[int]:
    """Take class scores [N, C, 1, 1] for [N, C]."""
    flat = term.fits == "classes" and len(shape) == 4 and shape[2:] == [1, 1]
    return shape[:2] if flat else shape


def _flat(values: Tensor) -> Tensor:
    return values.flatten(1) if list(values.shape[2:]) == [1, 1] else values


def _check_shapes(
    pair: Pair, index: int, ours: list[int], theirs: list[int], student: Side, teacher: Side
) -> None:
    both = (
        f"{pair.student[index]} of the {student.title} is {ours}, "
        f"{pair.teacher[index]} of the {teacher.title} is {theirs}"
    )
    term = pair.term
    if len(ours) != len(theirs) or len(ours) not in (2, 4) or (term.maps_only and len(ours) != 4):
        wanted = "maps [N, C, H, W]" if term.maps_only else "two maps or two vectors"
        raise ConfigError(f"{pair.where}: expected {wanted}; {both}")
    if term.fits == "classes" and ours[1] != theirs[1]:
        raise ConfigError(f"{pair.where}: as many channels are needed; {both}")
    if not term.adapter and ours[1:] != theirs[1:]:
        raise ConfigError(f"{pair.where}: the shapes differ and adapter is false; {both}")


def _check_section(where: str, paths: Sequence[str], side: Side) -> None:
    first, second = (side.shapes[path] for path in paths)
    if first[2:] != second[2:]:
        raise ConfigError(
            f"{where}: the ends of a section have one height and width; in the {side.title} "
            f"{paths[0]} is {first}, {paths[1]} is {second}"
        )
