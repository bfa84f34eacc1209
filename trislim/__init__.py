"""TriSlim makes vision models small and fast.

`trislim.core`, `trislim.tasks` and `trislim.tools` are the folders of the same names; a plugin
imports from `trislim.core`, in a checkout and where the package is installed. Importing `trislim`
loads no Paddle.
"""

from __future__ import annotations

from trislim import checkout

checkout.give_folders_their_names()
