"""`python -m trislim` is the command `trislim`."""

from __future__ import annotations

from trislim.commands import main

if __name__ == "__main__":
    main()
