"""Steps of a row: commands of the tools, with their inputs and outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.settings.config import assignment, load_yaml
from core.targets.names import BACKENDS, Backend
from core.zoo.rows import OF_FLOAT, ZooRow, ZooScale

FLOAT, COMPRESSED = "float", "compressed"
SHOWN: Backend = "openvino"  # runtime whose predictions are drawn
EXPORTS, BENCHMARK = "paddle,onnx", "benchmark.json"
SENSITIVITY = "sensitivity"  # folder of the row's sensitivity to rounding
FROM_TRAINED = {"prune", "qat"}  # strategies that start from the float model of the row


@dataclass(frozen=True)
class ZooPlaces:
    """Folders of a reproduction.

    Attributes:
        row: Folder of the row at this scale; its own steps write below it.
        floats: Folder of float models, which rows with the same training share.
        data: Folder of all data sets.
        drawn: Folder of drawn data, shared by rows.
        recipes: Folder of recipes that have names.
    """

    row: Path
    floats: Path
    data: Path
    drawn: Path
    recipes: Path


@dataclass(frozen=True)
class ZooStep:
    """A command of a tool.

    Attributes:
        name: Name among the steps of the row.
        words: Name of the tool and its arguments.
        home: Folder that records the step.
        output: File or folder that the step makes.
        needs: Steps before whose output it reads.
        files: Other files that its result depends on.
        training: Whether an interrupted run of it can be resumed.
    """

    name: str
    words: tuple[str, ...]
    home: Path
    output: Path
    needs: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    training: bool = False


def plan_steps(
    row: ZooRow, scale: ZooScale, places: ZooPlaces, weights: Path | None
) -> list[ZooStep]:
    """List the steps of a row in their order.

    Args:
        row: Row to reproduce.
        scale: One of its scales.
        places: Where to read and write.
        weights: Float weights that are there already; None if they are trained.
    """
    planned = _Plan(row, scale, places, weights)
    planned.train()
    planned.export(FLOAT)
    if row.slim:
        planned.export(COMPRESSED)
        planned.sensitivity()
    planned.benchmark()
    return planned.steps


def missing_data(scale: ZooScale, places: ZooPlaces) -> str:
    """Say in one line which data is missing and where to put it; empty if all is there."""
    for path, what in scale.data.items():
        place = Path(path.replace("{data}", str(places.data)))
        if not place.exists():
            return f"{place}: is missing; put there: {what}"
    return ""


class _Plan:
    def __init__(
        self, row: ZooRow, scale: ZooScale, places: ZooPlaces, weights: Path | None
    ) -> None:
        self.row, self.scale, self.places = row, scale, places
        self.config = scale.config or row.config
        self.trains_float = weights is None
        self.homes = {FLOAT: float_home(row, scale, places), COMPRESSED: places.row}
        best = self.homes[FLOAT] / FLOAT / "best_model"
        self.weights = {FLOAT: weights or best, COMPRESSED: places.row / COMPRESSED / "best_model"}
        self.steps: list[ZooStep] = []

    def train(self) -> None:
        """Add the float training, if there is one, and that of the compression."""
        if self.trains_float:
            overrides = (*self.scale.overrides, *self.scale.float_overrides)
            self._train(FLOAT, overrides, (), ())
        if not self.row.slim:
            return
        slim: tuple[str, ...] = ("--slim", ",".join(self.row.slim))
        recipes = [self.places.recipes / f"{name}.yml" for name in self.row.slim]
        overrides = (*self.scale.overrides, *self.scale.slim_overrides)
        teacher = self.scale.teacher or self.row.teacher
        if teacher:
            named, more, files = self._teacher(teacher)
            slim += ("--distill_config", named)
            overrides, recipes = (*overrides, *more), [*recipes, *files]
        if kinds_of(self.row, self.places) & FROM_TRAINED:
            overrides = (assignment("model.pretrained", str(self.weights[FLOAT])), *overrides)
        self._train(COMPRESSED, overrides, slim, tuple(recipes))

    def _teacher(self, teacher: str) -> tuple[str, tuple[str, ...], tuple[Path, ...]]:
        """Return the options that name a teacher, with overrides and the files they depend on."""
        if teacher != OF_FLOAT:
            return teacher, (), (Path(teacher),)
        if self.trains_float:
            return str(self.weights[FLOAT]), (), ()
        return self.config, (f"teacher.weights={self.weights[FLOAT]}",), (self.weights[FLOAT],)

    def _train(
        self, name: str, overrides: tuple[str, ...], more: tuple[str, ...], files: tuple[Path, ...]
    ) -> None:
        words = ["train.py", "-c", self.config, *more]
        for each in overrides:
            words += ["-o", self._filled(each)]
        words += ["--save_dir", str(self.homes[name] / name)]
        needs = (f"train {FLOAT}",) if name == COMPRESSED and self.trains_float else ()
        files = (Path(self.config), *files)
        self._add(f"train {name}", words, self.homes[name] / name, needs, files, training=True)

    def export(self, name: str) -> None:
        """Add the export of a model, and the evaluation of its files in every runtime."""
        weights, home = self.weights[name], self.homes[name]
        folder = exported(home, name)
        trained = name == COMPRESSED or self.trains_float
        needs = (f"train {name}",) if trained else ()
        common = ["--weights", str(weights), "--save_dir", str(folder), "--format", EXPORTS]
        if not trained:
            common += self._config()
        words = ["export_model.py", *common]
        if name == COMPRESSED and "qat" in kinds_of(self.row, self.places):
            words = ["qat_export.py", *common, "--target", self.row.target]
            words += ["--no_metric", "--no_latency"]  # later steps measure both
        files = () if trained else (Path(self.config), weights)
        self._add(f"export {name}", words, folder, needs, files)
        for backend in BACKENDS:
            file = metrics_file(home, name, backend)
            words = ["eval.py", "--model_dir", str(folder), "--backend", backend]
            words += ["--save", str(file), *([] if trained else self._config())]
            if backend == SHOWN:
                words += ["--pictures", str(pictures_file(home, name))]
            self._add(f"evaluate {name} in {backend}", words, file, (f"export {name}",))

    def sensitivity(self) -> None:
        """Add the measurement of each layer rounded alone, where the scale asks for it."""
        share = self.scale.sensitivity
        if share is None or "qat" not in kinds_of(self.row, self.places):
            return
        folder = self.places.row / SENSITIVITY
        words = ["sensitivity.py", "--quant", "--weights", str(self.weights[COMPRESSED])]
        words += ["--eval_rate", f"{share:g}", "--save_dir", str(folder)]
        self._add("sensitivity of layers", words, folder, (f"train {COMPRESSED}",))

    def benchmark(self) -> None:
        """Add the measurement of latency and size, all files in turns."""
        names = [FLOAT, COMPRESSED] if self.row.slim else [FLOAT]
        file = self.places.row / BENCHMARK
        folders = [str(exported(self.homes[name], name)) for name in names]
        words = ["benchmark.py", "--model_dir", *folders, "--save", str(file)]
        words += ["--threads", "1,all", "--operators"]
        if self.scale.input_shape:
            words += ["--input_shape", ",".join(map(str, self.scale.input_shape))]
        words += self.scale.benchmark
        needs = tuple(f"export {name}" for name in names)
        self._add("benchmark", words, file, needs)

    def _add(
        self,
        name: str,
        words: Sequence[str],
        output: Path,
        needs: tuple[str, ...],
        files: tuple[Path, ...] = (),
        training: bool = False,
    ) -> None:
        step = ZooStep(name, tuple(words), output.parent, output, needs, files, training)
        self.steps.append(step)

    def _config(self) -> list[str]:
        """Return the config with its overrides: weights from elsewhere describe nothing."""
        words = ["-c", self.config]
        for each in self.scale.overrides:
            words += ["-o", self._filled(each)]
        return words

    def _filled(self, text: str) -> str:
        filled = text.replace("{data}", str(self.places.data))
        filled = filled.replace("{drawn}", str(self.places.drawn))
        return filled.replace("{float}", str(self.weights[FLOAT]))


def float_home(row: ZooRow, scale: ZooScale, places: ZooPlaces) -> Path:
    """Return the folder of a row's float model: that of all rows which train it alike."""
    config = scale.config or row.config
    said = [config, scale.weights, *scale.overrides, "", *scale.float_overrides]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return places.floats / f"{Path(config).stem}_{digest[:8]}"


def exported(home: Path, name: str) -> Path:
    """Return the folder of exported files of a model."""
    return home / f"{name}_exported"


def exported_folders(row: ZooRow, scale: ZooScale, places: ZooPlaces) -> dict[str, Path]:
    """Return the folders of exported files of a row by model."""
    homes = {FLOAT: float_home(row, scale, places)}
    if row.slim:
        homes[COMPRESSED] = places.row
    return {model: exported(home, model) for model, home in homes.items()}


def metrics_file(home: Path, name: str, backend: str) -> Path:
    """Return the file with the metrics of a model's files in a runtime."""
    return home / f"{name}_{backend}.json"


def pictures_file(home: Path, name: str) -> Path:
    """Return the picture of predictions of a model's files."""
    return home / f"{name}_predictions.png"


def kinds_of(row: ZooRow, places: ZooPlaces) -> set[str]:
    """Return the kinds of strategies in the recipes of a row.

    Raises:
        ConfigError: A recipe that is not there.
    """
    kinds: set[str] = set()
    for name in row.slim:
        recipe: Mapping[str, Any] = load_yaml(places.recipes / f"{name}.yml")
        kinds |= {each["kind"] for each in recipe.get("strategies", ())}
    return kinds
