"""Keep the trained weights of a compression, even if the int8 files are refused."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from core.act.quantized import QuantizedProgram
from core.errors import RejectedError, UserError
from core.export.files import MODEL, PARAMS
from core.export.rejected import keep_rejected
from core.runtimes.description import write_description

TRAINED = "trained"  # folder beside rejected int8 files
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def keeping_trained(model: QuantizedProgram, draft: Path, folder: Path) -> Iterator[None]:
    """Keep the trained weights, as a float model, if the block that writes int8 files fails.

    Args:
        model: The trained model.
        draft: Folder that the files are written to.
        folder: Folder that they are made for.

    Raises:
        RejectedError: In the place of any error for the user, so that the draft is kept.
    """
    try:
        yield
    except BaseException as error:
        try:
            write_trained(model, draft / TRAINED)
        except OSError as failure:
            _log.error("%s: the trained model cannot be kept: %s", folder, failure.strerror)
            raise error from None
        if isinstance(error, UserError):
            told = f"{error}; the trained weights are kept in float, in {TRAINED}"
            raise RejectedError(told) from error
        place = keep_rejected(draft, folder, f"{type(error).__name__}: {error}")
        _log.error("the trained weights, in float, are in %s", place / TRAINED)
        raise


def write_trained(model: QuantizedProgram, folder: Path) -> None:
    """Write the float model with the trained weights, to be quantized again or trained on."""
    folder.mkdir()
    model.graph.write(folder / MODEL, folder / PARAMS)
    known = model.source.description
    if known is not None:
        write_description(replace(known, quantization=None), folder)
