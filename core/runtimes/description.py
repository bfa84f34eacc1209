"""The file `deploy.yml` beside an exported model, which describes it and its inputs.

Everything in it is plain, so that other programs can read it; we read it back strictly. Layout:

    digest: 8d1f...                 # SHA-256 of this file, taken with zeros in the digest's place
    format_version: 1
    trislim: 0.1.0                  # version that wrote it
    ending: argmax                  # what the graph ends in; raw: the network as it is; layers
    inputs:  [{name: image, shape: [-1, 3, 512, 512], dtype: float32}]   # -1 is free
    outputs: [{name: labels, shape: [-1, 512, 512], dtype: int64}]
    preprocess: {channels: RGB, layout: NCHW, mean: [...], std: [...], size: [512, 512]}
    report: {size_mb: ..., parameters: ..., macs: ..., input_shapes: [[1, 3, 512, 512]]}
        # size_mb: of the files of one format, the first of these that was written: model.pdmodel
        # with model.pdiparams, model.onnx, model.xml with model.bin, model.nb; 1 MB is 10**6 bytes
    task: {name: seg, settings: {...}}   # builds the task again: pre- and postprocessing
    quantization: {layers: 54, target: openvino, processors: any}   # null: all is float
    files: {model.pdmodel: 02c4..., model.pdiparams: 77af...}   # SHA-256 of each other file
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from core.errors import ConfigError, ExportError
from core.settings.config import load_one_yaml, read, to_mapping
from core.settings.digests import UNSEALED, changed_file, digests_of, is_sealed, seal
from core.targets.names import EXPORT_DESCRIPTION

DESCRIPTION = EXPORT_DESCRIPTION
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Port:
    """An input or output of the graph."""

    name: str
    shape: tuple[int, ...]  # -1 is a free dimension
    dtype: str


@dataclass(frozen=True)
class TaskSettings:
    """Arguments of `core.task.build_task`."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Preprocess:
    """Preparation of an image for the first input, for other programs.

    Values are scaled to 0..1, then `(x - mean) / std`. How the image gets its size (crop, letters,
    boxes) is the task's: see its settings.
    """

    channels: str = "RGB"
    layout: str = "NCHW"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None  # [width, height]; null: any


@dataclass(frozen=True)
class Report:
    """Size and cost, as `core.graph.cost` defines them."""

    size_mb: float  # size of the first format: .pdmodel + .pdiparams, .onnx, .xml + .bin, .nb
    parameters: int
    macs: int
    input_shapes: tuple[tuple[int, ...], ...]  # for which the MACs are


@dataclass(frozen=True)
class Quantization:
    """Int8 part of an export."""

    layers: int
    target: str  # runtime that the ONNX file is laid out for
    processors: Literal["any", "vnni"] = "vnni"  # on which it is right; older files do not say


LAYERS = "layers"  # the ending of a model that returns the outputs of some of its layers


@dataclass(frozen=True, kw_only=True)
class DeployDescription:
    """The content of `deploy.yml`; a model from elsewhere has inputs and outputs only.

    `digest` and `files` are those that were read; writing takes new ones.
    """

    digest: str = ""
    format_version: int = FORMAT_VERSION
    trislim: str = ""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ending: str = "raw"
    preprocess: Preprocess | None = None
    report: Report | None = None
    task: TaskSettings | None = None
    quantization: Quantization | None = None
    files: dict[str, str] = field(default_factory=dict)

    def check_whole(self, folder: str | Path) -> None:
        """Refuse a model whose outputs say nothing of the task.

        Raises:
            ConfigError: It ends in layers.
        """
        if self.ending == LAYERS:
            names = ", ".join(port.name for port in self.outputs)
            raise ConfigError(
                f"{folder}: ends in layers ({names}), so there are no answers to measure or to "
                "draw; export it with another --ending"
            )


def write_description(description: DeployDescription, folder: Path) -> DeployDescription:
    """Write `deploy.yml`, with the digests of the files that are there; return it with them."""
    files = digests_of(folder, [DESCRIPTION])
    content = to_mapping(replace(description, digest=UNSEALED, files=files))
    # None: the innermost lists and mappings on one line each
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    sealed, digest = seal(text)
    (folder / DESCRIPTION).write_bytes(sealed)
    return replace(description, digest=digest, files=files)


def read_description(folder: Path) -> DeployDescription | None:
    """Read `deploy.yml`, and compare the files with the digests in it; None if there is none.

    Raises:
        ExportError: It is broken, or written by a newer version; or it, or a file beside it, is not
            as it was written.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    content = load_one_yaml(path)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ExportError(f"{path}: format_version {version!r}, expected {FORMAT_VERSION}")
    try:
        description = read(DeployDescription, content)
    except ConfigError as error:
        raise ExportError(f"{path}: {error}") from error
    for port in (*description.inputs, *description.outputs):
        try:
            np.dtype(port.dtype or "float32")
        except TypeError as error:
            raise ExportError(f"{path}: {port.name}: no dtype {port.dtype!r}") from error
    try:
        if description.digest and not is_sealed(path.read_bytes(), description.digest):
            raise ExportError(
                f"{path}: is not as it was written: its digest differs; if you changed it "
                "yourself, take out its line 'digest'"
            )
        changed = changed_file(folder, description.files)
    except OSError as error:
        raise ExportError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if changed is not None:
        raise ExportError(
            f"{changed}: is not as it was written: its digest in {DESCRIPTION} differs"
        )
    return description
