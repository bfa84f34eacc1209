"""Imported first by every tool: ends it in one line if a library is missing or of a wrong version.

Importing Paddle beside a wrong numpy, for instance, fails in ways that nobody can read. So this is
the one module that does something when it is imported.
"""

from __future__ import annotations

import sys

from core.errors import ConfigError
from core.versions import check_versions

try:
    check_versions()
except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
