"""Charts as SVG that can be read on white and on black."""

from __future__ import annotations

import core.settings.plain_matplotlib  # isort: skip  # noqa: F401 - before its parts

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from core.settings.plain_matplotlib import plain_settings
from core.training.charts import Row

GREY = "#808080"  # can be read on white and on black
BLUE, ORANGE = "#3b82f6", "#f97316"
LINES = (BLUE, ORANGE, "#22a06b", "#a855f7", "#e0559b", "#8a8f20")
SIZE = (4.6, 3.0)  # inches: a chart is about as wide as a phone, where its letters stay readable
# the date and the random names in an SVG would make each report another file
STEADY = {"svg.hashsalt": "trislim", "svg.fonttype": "none", "font.size": 11}


@dataclass(frozen=True)
class ChartPath:
    """Points of one model, with an arrow from each to the next.

    Attributes:
        label: Short name, at the last point.
        points: (x, y, color) of each.
    """

    label: str
    points: tuple[tuple[float, float, str], ...]


def paths_chart(paths: Sequence[ChartPath], x: str, y: str) -> str:
    """Draw points with arrows between them; return the SVG.

    Args:
        paths: Points of each model.
        x: Name of the horizontal axis, which begins at 0.
        y: Name of the vertical axis.
    """
    with plain_settings(STEADY):
        figure, axes = _axes(x, y)
        for path in paths:
            places = [point[:2] for point in path.points]
            for horizontal, vertical, color in path.points:
                axes.plot(horizontal, vertical, "o", color=color, clip_on=False)
            for begin, end in itertools.pairwise(places):
                axes.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": GREY})
            if places:
                label = Annotation(
                    path.label,
                    places[-1],
                    xytext=(5, 5),
                    textcoords="offset points",
                    annotation_clip=False,
                )
                label.set(color=GREY, fontsize=10)
                axes.add_artist(label)
        axes.margins(y=0.18)
        most = max((point[0] for path in paths for point in path.points), default=1.0)
        axes.set_xlim(0, 1.12 * most)  # room for the label of the last point
        return _svg(figure, axes)


def curve_charts(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Draw losses, learning rate and metrics of a training; yield titles and SVG.

    Args:
        rows: Measurements of each epoch, as in `results.csv`.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    panels: Mapping[str, list[str]] = {
        "training loss": [key for key in keys if key.startswith("train/")],
        "learning rate": [key for key in keys if key == "learning_rate"],
        "validation": [key for key in keys if key.startswith("val/")],
    }
    for title, shown in panels.items():
        if shown:
            yield title, _curves(rows, shown)


def _curves(rows: Sequence[Row], keys: Sequence[str]) -> str:
    with plain_settings(STEADY):
        figure, axes = _axes("epoch", "")
        for number, key in enumerate(keys):
            measured = [(row["epoch"], row[key]) for row in rows if key in row]
            color = LINES[number % len(LINES)]
            marker = "o" if len(measured) < 30 else None
            name = key.partition("/")[2]
            axes.plot(*zip(*measured), color=color, marker=marker, markersize=4, label=name)
        epochs = [row["epoch"] for row in rows]
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25, color=GREY)
        if len(keys) > 1:
            axes.legend(fontsize=9, framealpha=0, labelcolor=GREY)
        return _svg(figure, axes)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot(xlabel=x, ylabel=y)


def _svg(figure: Figure, axes: Axes) -> str:
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(GREY)
    axes.tick_params(colors=GREY, which="both")
    axes.spines[:].set_color(GREY)
    for side in (figure.patch, axes.patch):
        side.set_alpha(0)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
