"""Pages of reports: HTML that needs no network, and the same figures as JSON beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from core.settings.files import write_text

PAGE, FIGURES = "report.html", "report.json"


def write_page(folder: Path, template: str, figures: Mapping[str, Any], **shown: Any) -> Path:
    """Write `report.html` and `report.json`; return the page.

    Args:
        folder: Folder of the report.
        template: Name of a template in this package.
        figures: Content of the JSON file.
        shown: Values that the template shows.

    Raises:
        FileError: A file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(**shown)
    write_text(folder / FIGURES, json.dumps(figures, indent=1) + "\n")
    write_text(folder / PAGE, page)
    return folder / PAGE


def machine_in_words(environment: Mapping[str, Any]) -> dict[str, str]:
    """Describe a machine, as `core.runtimes.environment` found it, in words."""
    words = {}
    for key, value in environment.items():
        if isinstance(value, dict):
            value = [f"{name} {each}" for name, each in value.items()]
        if value:
            said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            words[key.replace("_", " ")] = said
    return words


def embedded(file: Path) -> str | None:
    """Return a PNG file as a URL that holds it, or None if there is none."""
    if not file.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def embedded_pictures(files: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Return the pictures that are there, as URLs that hold them, with their names."""
    found = [(name, embedded(file)) for name, file in files.items()]
    return [(name, url) for name, url in found if url is not None]
