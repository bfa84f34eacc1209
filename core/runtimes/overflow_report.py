"""Report of how processors without VNNI run a model: as a table, as JSON, as a warning."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from core.errors import ExportError
from core.runtimes.description import read_description
from core.runtimes.formats import find_files
from core.settings.files import present
from core.targets.instructions import multiplies_int8_exactly, why_not_as_written
from core.targets.names import Backend
from core.targets.overflow import check_files, summary
from core.targets.pair_sums import LayerCheck, Verdict

_log = logging.getLogger(__name__)
_REMEDY = "quantize with processors: any"
_REMEDY_OF_OTHERS = (
    "quantize the float model here with processors: any, or elsewhere with weights of half the "
    "range (NNCF: overflow_fix, ONNX Runtime: reduce_range)"
)


def warn_of_overflow(uses: Iterable[tuple[Path, Backend]]) -> None:
    """Log a warning, in one line, for each file some of whose layers are computed wrongly here.

    They may overflow, or the runtime has wrong kernels for this processor.

    Args:
        uses: Folders of exported models, and the runtimes that run them.
    """
    runtimes: dict[tuple[Path, ...], list[Backend]] = {}
    for folder, backend in uses:
        why = why_not_as_written(backend, "any")
        if why and _has_int8(find_files(folder, backend)):
            _log.warning("%s: %s", folder, why)
        if not multiplies_int8_exactly(backend):
            named = runtimes.setdefault(find_files(folder, backend), [])
            named.extend({backend}.difference(named))
    for files, backends in runtimes.items():
        if files[0].suffix == ".xml" and _is_right_anywhere(files[0].parent):
            continue
        try:
            checks = check_files(files)
        except ExportError as error:
            _log.warning("whether int8 may overflow here is not known: %s", error)
            continue
        if any(check.verdict is Verdict.OVERFLOW for check in checks):
            _log.warning(
                "%s: %s; there is none for %s here, so answers may be wrong: %s",
                files[0],
                summary(checks),
                " and ".join(backends),
                _remedy(files[0].parent),
            )


def _has_int8(files: Sequence[Path]) -> bool:
    try:
        return bool(check_files(files))
    except ExportError:  # which says nothing of this file
        return False


def _is_right_anywhere(folder: Path) -> bool:
    """Tell whether an export says so itself: its ONNX file was checked when it was written."""
    description = read_description(folder)
    if description is None:
        return False
    return description.quantization is None or description.quantization.processors == "any"


def _remedy(folder: Path) -> str:
    description = read_description(folder)
    ours = description is not None and description.quantization is not None
    return _REMEDY if ours else _REMEDY_OF_OTHERS


def model_files(model: Path) -> list[tuple[Path, ...]]:
    """Return the files of each format of a model that can be checked.

    Args:
        model: Folder of an exported model, or an ONNX file.

    Raises:
        ExportError: There are none.
    """
    model = present(model)
    if model.suffix == ".onnx" and model.is_file():
        return [(model,)]
    if not model.is_dir():
        raise ExportError(f"{model}: no such folder of an exported model, nor an .onnx file")
    backends: tuple[Backend, ...] = ("paddle", "onnxruntime")
    found, missing = [], []
    for backend in backends:
        try:
            found.append(find_files(model, backend))
        except ExportError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    checked = [files for files in found if files[0].suffix != ".json"]
    return checked or found  # programs of PIR alone: their check says why it cannot be


def to_table(checks: Sequence[LayerCheck]) -> Table:
    """Return a table of the layers."""
    table = Table()
    for title in ("layer", "operator"):
        table.add_column(title, overflow="fold")
    for title in ("data", "largest sum", "of"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for check in checks:
        table.add_row(
            check.layer,
            check.kind,
            f"{check.lowest}..{check.highest}",
            str(check.pair.total),
            str(check.pair.limit),
            f"{check.verdict.value} ({check.reason})" if check.reason else check.verdict.value,
        )
    return table


def to_json(files: Sequence[Path], checks: Sequence[LayerCheck]) -> dict[str, Any]:
    """Return the layers of a file as plain values."""
    layers = [
        {
            "layer": check.layer,
            "operator": check.kind,
            "lowest": check.lowest,
            "highest": check.highest,
            "largest_sum": check.pair.total,
            "limit": check.pair.limit,
            "output_channel": check.pair.channel,
            "weights": list(check.pair.places),
            "verdict": check.verdict.value,
            "reason": check.reason,
        }
        for check in checks
    ]
    return {"file": str(files[0]), "summary": summary(checks), "layers": layers}
