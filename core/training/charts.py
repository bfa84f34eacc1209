"""Draw curves of a training and confusion matrices, as PNG files."""

from __future__ import annotations

import core.settings.plain_matplotlib  # isort: skip  # noqa: F401 - before its parts

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from core.settings.plain_matplotlib import plain_settings
from core.training.lettering import drawable, font_file

PANEL = (4.0, 3.0)  # inches
COLUMNS = 3
MOST_LABELLED = 40  # classes whose names fit beside a matrix
MOST_WRITTEN = 15  # classes whose shares fit into its cells
LONGEST_NAME = 20

Row = Mapping[str, float]  # measurements of an epoch, by name


@plain_settings()
def draw_curves(rows: Sequence[Row], best_epoch: int | None) -> bytes:
    """Draw training losses, learning rate and each metric over the epochs.

    Args:
        rows: One for each epoch, with `epoch`; keys begin with `train/` and `val/`.
        best_epoch: Marked in the metrics.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    losses = [key for key in keys if key.startswith("train/")]
    panels = [("training loss", losses), ("learning rate", ["learning_rate"])]
    panels += [(key.removeprefix("val/"), [key]) for key in keys if key.startswith("val/")]
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    wide, high = PANEL[0] * columns, PANEL[1] * lines
    figure = Figure((wide, high))  # margins in inches: a layout engine would take twice the time
    figure.subplots_adjust(0.6 / wide, 0.35 / high, 1 - 0.1 / wide, 1 - 0.35 / high, 0.2, 0.3)
    FigureCanvasAgg(figure)
    for number, (title, shown) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, number)
        axes.set_title(title, parse_math=False)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for key in shown:
            _plot(axes, rows, key, key.removeprefix("train/") if len(shown) > 1 else "_hidden")
        if number > 2 and best_epoch is not None:
            axes.axvline(best_epoch, color="grey", linestyle=":", label=f"best: epoch {best_epoch}")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return _png(figure)


def _plot(axes: Any, rows: Sequence[Row], key: str, label: str) -> None:
    measured = [(row["epoch"], row[key]) for row in rows if key in row]
    if measured:
        marker = "o" if len(measured) < 30 else None
        axes.plot(*zip(*measured), marker=marker, markersize=3, label=_printable(label, "loss"))


@plain_settings()
def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw a confusion matrix [truth, prediction] as shares of each truth."""
    count = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    side = float(np.clip(3 + 0.35 * count, 5, 14))
    figure = Figure((side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= MOST_LABELLED:
        labels = [_printable(name, f"class {index}") for index, name in enumerate(names)]
        font = FontProperties(fname=font_file("".join(labels)), size="small")
        axes.set_xticks(range(count), labels, rotation=90, font=font, parse_math=False)
        axes.set_yticks(range(count), labels, font=font, parse_math=False)
    if count <= MOST_WRITTEN:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                place = {"ha": "center", "va": "center"}
                axes.text(column, row, f"{share:.2f}", place, color=color, fontsize="small")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _printable(name: str, otherwise: str) -> str:
    """Return a name, shortened, or another where no font has all letters of it."""
    name = drawable(name, otherwise)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
