"""Rows of the model zoo: one YAML file each, in configs/zoo.

    title: MobileNetV3_large_x1_0, distilled and quantized
    source: PaddleSlim, automatic compression
    metric: top1
    published: {float_metric: 0.7532, compressed_metric: 0.7441}
    config: configs/cls/mobilenetv3_large_imagenet.yml
    slim: [distill_qat]
    teacher: float                # the row's own float model; or a config; null: none
    scales:
      full: {weights: published, data: {"{data}/ILSVRC2012": "ImageNet-1k, ..."}, cost: 2 days, ...}
      small: {...}
      smoke: {...}

In overrides, data and weights, `{data}` stands for the folder of all data sets, `{drawn}` for that
of drawn data, `{float}` for the weights of the row's float model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from core.errors import ConfigError, FileError
from core.settings.config import load_yaml, read, suggest
from core.targets.names import ONNX_TARGETS

ScaleName = Literal["full", "small", "smoke"]
SCALES: tuple[ScaleName, ...] = get_args(ScaleName)
PUBLISHED, OF_FLOAT = "published", "float"


@dataclass(frozen=True)
class ZooScale:
    """How a row is reproduced at one scale.

    Attributes:
        config: Config in the place of the row's.
        overrides: Overrides (`-o`) of all trainings.
        float_overrides: Overrides of the float training alone.
        slim_overrides: Overrides of the compression alone.
        weights: Float weights: `published`, or a path. null: they are trained first.
        teacher: Config in the place of the row's `teacher`.
        input_shape: [C, H, W] of the images that are timed; null: those of the export.
        benchmark: More options of `tools/benchmark.py`.
        sensitivity: Share of the validation data on which the rounding of each layer alone is
            measured, in rows that quantize; null: it is not measured.
        data: Files or folders that have to be there, with what belongs there.
        cost: How long it takes and on what, for people.
    """

    config: str | None = None
    overrides: tuple[str, ...] = ()
    float_overrides: tuple[str, ...] = ()
    slim_overrides: tuple[str, ...] = ()
    weights: str | None = None
    teacher: str | None = None
    input_shape: tuple[int, int, int] | None = None
    benchmark: tuple[str, ...] = ()
    sensitivity: float | None = None
    data: dict[str, str] = field(default_factory=dict)
    cost: str = ""

    def __post_init__(self) -> None:
        if self.sensitivity is not None and not 0 < self.sensitivity <= 1:
            wanted = "a number above 0, up to 1, or null"
            raise ValueError(f"sensitivity: expected {wanted}, got {self.sensitivity}")


@dataclass(frozen=True)
class PublishedFigures:
    """Figures that the row's source reports; null where it reports none.

    Attributes:
        float_metric: Metric of the float model, on our scale from 0 to 1.
        compressed_metric: Metric of the compressed model.
        float_ms: Milliseconds of the float model, on the source's own machine.
        compressed_ms: Milliseconds of the compressed model there.
        size_mb: Size of the compressed files.
    """

    float_metric: float | None = None
    compressed_metric: float | None = None
    float_ms: float | None = None
    compressed_ms: float | None = None
    size_mb: float | None = None


@dataclass(frozen=True)
class ZooRow:
    """One row of a table that is reproduced.

    Attributes:
        title: Network and method, for people.
        source: Document that has the row.
        metric: Metric of the task that the row is about.
        published: Figures that the source reports.
        config: Config of the float model.
        slim: Recipes of the compression; none: the float model is the row.
        teacher: `float`, a config, or null.
        target: Runtime that int8 ONNX files are laid out for.
        scales: How to reproduce the row at each scale.
    """

    title: str
    source: str
    metric: str
    config: str
    scales: dict[ScaleName, ZooScale]
    published: PublishedFigures = PublishedFigures()
    slim: tuple[str, ...] = ()
    teacher: str | None = None
    target: str = "openvino"

    def __post_init__(self) -> None:
        if self.target not in ONNX_TARGETS:
            known = ", ".join(ONNX_TARGETS)
            raise ValueError(f"target: expected one of {known}, got {self.target!r}")
        if self.teacher and not self.slim:
            raise ValueError("teacher: has no meaning without slim")


def read_row(file: Path) -> ZooRow:
    """Read a row.

    Raises:
        ConfigError: The file is no row; the message begins with its path.
    """
    try:
        return read(ZooRow, load_yaml(file))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def read_rows(folder: Path, names: tuple[str, ...] = ()) -> Mapping[str, ZooRow]:
    """Read the rows of a folder by the names of their files.

    Args:
        folder: Folder of YAML files.
        names: Rows to read; none means all.

    Raises:
        ConfigError: A name that no file has, or a file that is no row.
        FileError: The folder has no rows.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.yml"))}
    if not files:
        raise FileError(f"{folder}: expected YAML files of rows, found none")
    for name in names:
        if name not in files:
            raise ConfigError(f"{name}: no such row in {folder}{suggest(name, list(files))}")
    return {name: read_row(files[name]) for name in names or files}
