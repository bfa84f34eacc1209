"""The files of an export: their names and formats, and how a float graph is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from core.errors import ExportError
from core.export import lite, openvino_ir
from core.export.onnx.convert import OPSET, convert_to_onnx
from core.graph import cost
from core.graph.program import Graph
from core.runtimes.description import DESCRIPTION
from core.settings.config import suggest
from core.settings.files import scratch
from core.targets.names import FORMATS, Format

MODEL, PARAMS, ONNX, LITE = "model.pdmodel", "model.pdiparams", "model.onnx", "model.nb"
OPENVINO = "model.xml", "model.bin"
CARD, CARD_MARK = "README.md", "library_name: trislim"  # a model card, and the line that tells it

FILES: Mapping[Format, tuple[str, ...]] = MappingProxyType(
    {"paddle": (MODEL, PARAMS), "onnx": (ONNX,), "openvino": OPENVINO, "lite": (LITE,)}
)

WAYS_OUT = "name another folder (--save_dir), or replace it (--overwrite)"
CHECKPOINT = "model.json"  # of `core.training.checkpoint`
_OURS = (MODEL, PARAMS, ONNX, *OPENVINO, LITE, DESCRIPTION)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse names of formats that are none, and formats that cannot be written here.

    Raises:
        ExportError: Names the first, or says what to install; or there is none.
    """
    if not formats:
        raise ExportError(f"format: expected at least one of {', '.join(FORMATS)}, got none")
    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"format: no format {name!r}{suggest(name, FORMATS)}")
    if "openvino" in formats:
        openvino_ir.check_installed()
    if "lite" in formats:
        lite.find_python()


def format_of_file(name: str) -> Format:
    """Return which format a file of an export is of."""
    return next(kind for kind, names in FILES.items() if name in names)


def size_mb_of_files(folder: Path, kind: Format) -> float:
    """Return the size of the files of a format in a folder, as in `deploy.yml`."""
    return round(cost.size_mb([folder / name for name in FILES[kind]]), 3)


def with_sources(formats: Sequence[Format]) -> list[Format]:
    """Return formats, and ONNX if OpenVINO's files are wanted: they are made of it.

    Int8 layers are compared, and checked for overflow, in the ONNX file; `drop_sources` then takes
    it away unless it was asked for.
    """
    wanted = {*formats, "onnx"} if "openvino" in formats else {*formats}
    return [name for name in FORMATS if name in wanted]


def drop_sources(folder: Path, formats: Sequence[Format]) -> None:
    """Take the files away that `with_sources` added to some formats."""
    for kind in {*with_sources(formats)}.difference(formats):
        for name in FILES[kind]:
            (folder / name).unlink()


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder that an export must not replace.

    Args:
        folder: Folder of the export.
        overwrite: An earlier export may be replaced.

    Raises:
        ExportError: It is a file, lies in a checkpoint, holds other things than an export, or an
            earlier export.
    """
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder}: expected a folder, it is a file")
    if (folder.parent / CHECKPOINT).is_file():
        raise ExportError(
            f"{folder}: lies in a checkpoint, which is replaced as a whole; choose another folder"
        )
    foreign = sorted(
        path.name for path in folder.glob("*") if path.name not in _OURS and not is_card(path)
    )
    if foreign:
        raise ExportError(
            f"{folder}: holds {foreign[0]}, which is no part of an export; choose another folder"
        )
    if not overwrite and any(folder.glob("*")):
        raise ExportError(f"{folder}: holds an earlier export; {WAYS_OUT}")


def is_card(path: Path) -> bool:
    """Tell whether a file is a model card that TriSlim has written."""
    if path.name != CARD or not path.is_file():
        return False
    return CARD_MARK in path.read_text(encoding="utf-8", errors="replace").splitlines()


def write_files(graph: Graph, folder: Path, formats: Sequence[Format], opset: int = OPSET) -> None:
    """Write the model files of a graph, of these formats alone.

    Raises:
        ExportError: An operator has no counterpart in ONNX or Paddle Lite.
    """
    if "paddle" in formats:
        graph.write(folder / MODEL, folder / PARAMS)
    if "onnx" in formats or "openvino" in formats:
        content = convert_to_onnx(graph, opset)
        if "onnx" in formats:
            (folder / ONNX).write_bytes(content)
        if "openvino" in formats:
            openvino_ir.convert(content, folder / OPENVINO[0])
    if "lite" in formats:
        with scratch() as place:  # its converter reads files of Paddle
            files = Path(place, MODEL), Path(place, PARAMS)
            graph.write(*files)
            (folder / LITE).write_bytes(lite.convert(*files))
