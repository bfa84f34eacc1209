"""Where tables are printed: text is printed as it is, and a reader that left is told as such."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from rich.console import Console


class PlainConsole(Console):
    """A console of rich for which square brackets, as paths may have them, are no markup.

    Args:
        least: Width in characters, if the terminal has fewer; a pipe has 80 by default.
        options: Of rich's `Console`.
    """

    def __init__(self, least: int = 0, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)
        if self.width < least:
            self.width = least

    def on_broken_pipe(self) -> NoReturn:
        """Let the tool end as with any other output that is not read any more.

        Raises:
            BrokenPipeError: Always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
