"""Formats of exported models, the runtimes that read them, and which of them a folder holds.

Nothing here needs Paddle, so that the command line can name formats before it is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Sequence
from pathlib import Path

from core.errors import ExportError
from core.targets.names import BACKENDS, FORMATS, Backend, Format

_PROGRAM_SUFFIXES = (".pdmodel", ".json")  # programs of Paddle's old IR, and of PIR, Paddle 3's own
# of files that are named in place of their folder
TWINS = {".pdmodel": ".pdiparams", ".xml": ".bin"}  # files that come in pairs
MODEL_SUFFIXES = (".onnx", *_PROGRAM_SUFFIXES, ".xml")
# the names that Paddle's tools of different years give their files
_PADDLE_NAMES = (
    ("model.pdmodel", "model.pdiparams"),
    ("inference.pdmodel", "inference.pdiparams"),
    ("__model__", "__params__"),
    ("model.json", "model.pdiparams"),
    ("inference.json", "inference.pdiparams"),
)


def format_of(backend: Backend) -> Format:
    """Return which files are made for a backend; OpenVINO's own ones are made of ONNX."""
    return "paddle" if backend == "paddle" else "onnx"


def read_format(backend: Backend, formats: Container[Format]) -> Format | None:
    """Return which of some formats a backend reads; OpenVINO reads its own rather than ONNX."""
    own: tuple[Format, ...] = ("openvino",) if backend == "openvino" else ()
    return next((each for each in (*own, format_of(backend)) if each in formats), None)


def leading_format(formats: Sequence[Format]) -> Format:
    """Return the format whose runtime a quantized model is made for: ONNX if it is among them."""
    order: tuple[Format, ...] = ("onnx", "openvino", "paddle", "lite")
    return next(name for name in order if name in formats)


def is_installed(backend: Backend) -> bool:
    """Tell whether the runtime can be imported."""
    return importlib.util.find_spec(backend) is not None


def find_files(folder: Path, backend: Backend) -> tuple[Path, ...]:
    """Return the files of the model that a backend reads.

    Raises:
        ExportError: There are none; the message says what is there, and how to make them.
    """
    kind = format_of(backend)
    files = _openvino_files(folder) if backend == "openvino" else ()
    files = files or (_paddle_files(folder) if kind == "paddle" else _onnx_files(folder))
    if files:
        return files
    missing = "model.pdmodel and model.pdiparams" if kind == "paddle" else "model.onnx"
    raise ExportError(
        f"{folder}: no {missing}, which {backend} reads (formats there: {_shown(folder)}); export "
        f"with tools/export_model.py --format {kind}"
    )


def formats_in(folder: Path) -> tuple[Format, ...]:
    """Return the formats of the model files in a folder."""
    found: dict[Format, bool] = {
        "paddle": bool(_paddle_files(folder)),
        "onnx": bool(_onnx_files(folder)),
        "openvino": bool(_openvino_files(folder)),
        "lite": folder.is_dir() and any(folder.glob("*.nb")),
    }
    return tuple(name for name in FORMATS if found[name])


def is_model_file(path: Path) -> bool:
    """Tell whether a path is a file in a format that runtimes read, in place of a folder."""
    return path.is_file() and path.suffix in MODEL_SUFFIXES


def check_present(path: Path) -> None:
    """Refuse a path that is neither a folder nor a model file.

    Raises:
        ExportError: Names it.
    """
    if not path.is_dir() and not is_model_file(path):
        kind = "file" if path.suffix in MODEL_SUFFIXES else "folder"
        raise ExportError(f"{path}: no such {kind} of an exported model")
    twin = TWINS.get(path.suffix) if path.is_file() else None
    if twin is not None and not path.with_suffix(twin).is_file():
        raise ExportError(f"{path.with_suffix(twin)}: no such file, and {path.name} needs it")


def readable_backends(folder: Path) -> tuple[Backend, ...]:
    """Return the installed runtimes that read a model file in the folder."""
    there = formats_in(folder)
    return tuple(each for each in BACKENDS if read_format(each, there) and is_installed(each))


def choose_backend(folder: Path) -> Backend:
    """Return the first installed runtime that reads a model file in the folder.

    Raises:
        ExportError: There is no file for any, or none that reads them is installed.
    """
    for backend in readable_backends(folder):
        return backend
    there = formats_in(folder)
    if "onnx" in there:
        raise ExportError(
            f"{folder}: holds ONNX, and no runtime for it is installed; run: pip install "
            "onnxruntime"
        )
    if "openvino" in there:
        raise ExportError(
            f"{folder}: holds files of OpenVINO, which is not installed; run: pip install openvino"
        )
    if there:
        raise ExportError(
            f"{folder}: holds a file for Paddle Lite alone, which runs on other devices; export "
            "with tools/export_model.py --format paddle or onnx"
        )
    raise ExportError(
        f"{folder}: no model.pdmodel and model.pdiparams, nor model.onnx; export with "
        "tools/export_model.py --format paddle or onnx"
    )


def _shown(folder: Path) -> str:
    return ", ".join(formats_in(folder)) or "none"


def _paddle_files(folder: Path) -> tuple[Path, ...]:
    if is_model_file(folder):
        both = folder, folder.with_suffix(".pdiparams")
        return both if folder.suffix in _PROGRAM_SUFFIXES and both[1].is_file() else ()
    for names in _PADDLE_NAMES:
        files = tuple(folder / name for name in names)
        if all(file.is_file() for file in files):
            return files
    for suffix in _PROGRAM_SUFFIXES:
        others = [p for p in folder.glob(f"*{suffix}") if p.with_suffix(".pdiparams").is_file()]
        if len(others) == 1:
            return others[0], others[0].with_suffix(".pdiparams")
    return ()


def _onnx_files(folder: Path) -> tuple[Path, ...]:
    if is_model_file(folder):
        return (folder,) if folder.suffix == ".onnx" else ()
    found = sorted(folder.glob("*.onnx"))
    return tuple(file for file in found if file.name == "model.onnx" or len(found) == 1)


def _openvino_files(folder: Path) -> tuple[Path, ...]:
    found = [folder] if is_model_file(folder) else sorted(folder.glob("*.xml"))
    both = [
        (file, file.with_suffix(".bin"))
        for file in found
        if file.suffix == ".xml" and file.with_suffix(".bin").is_file()
    ]
    return next((pair for pair in both if pair[0].name == "model.xml" or len(both) == 1), ())
