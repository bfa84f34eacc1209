"""Errors that are the user's to mend. Tools print them as one line and exit with status 2."""

from __future__ import annotations

import errno

MOST_PROBLEMS = 12  # in one message
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no defect of ours, wherever it is met
# nor are these, where a path is named: no permission, too long, a loop of links, a broken disk
_BARRED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE)


class UserError(Exception):
    """Something outside the code is wrong; the message names the key, file or layer first."""


class ConfigError(UserError):
    """Settings are unknown, missing or mistyped; each message begins with a dotted path.

    Args:
        problems: Messages; several are joined to one line.

    Attributes:
        problems: One message for each setting that is wrong.
    """

    def __init__(self, *problems: str) -> None:
        shown = problems[:MOST_PROBLEMS]
        rest = len(problems) - len(shown)
        super().__init__("; ".join(shown) + (f"; and {rest} more" if rest else ""))
        self.problems = problems


class DataError(UserError):
    """A file of the data set is missing or broken, or contradicts the config."""


class CheckpointError(UserError):
    """Weights cannot be opened or do not fit the network; the message begins with their path."""


class FileError(UserError):
    """A file or folder cannot be written; the message begins with it."""


class DownloadError(UserError):
    """A file cannot be fetched, or is not the one that was asked for; begins with the address."""


class TrainingError(UserError):
    """Training cannot go on, for instance because a loss is not finite."""


class ExportError(UserError):
    """A model cannot be exported, or the exported file answers differently from the model."""


class RejectedError(ExportError):
    """Files were written, but a check refuses them; see `core.export.rejected`."""


def denied(error: OSError) -> str:
    """Return the line of an error of the system that is no defect of ours; empty for others."""
    if error.errno in _FULL:
        return f"{error.filename or 'a file or the output'}: cannot be written: {error.strerror}"
    if error.errno in _BARRED and error.filename:
        return f"{error.filename}: {error.strerror}"
    return ""
