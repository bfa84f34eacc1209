"""Write the pages of figures again, whole, from the JSON files beside them; nothing is measured.

python -m benchmarks.pages
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.comparison import write_page
from benchmarks.measure import results
from benchmarks.pages import benchmarks, networks, robustness

PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "benchmarks.md": benchmarks.page,
    "networks.md": networks.page,
    "results.md": results.page,
    robustness.PAGE: robustness.page,
}

if __name__ == "__main__":
    for document, page in PAGES.items():
        write_page(document, page)
        print(f"docs/{document}")
