"""Tables of the channels that can be pruned, and of those that were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import JustifyMethod
from rich.table import Table

from core.prune.pruner import Cut
from core.prune.structure.analysis import Analysis, Axis

SHOWN = 8  # names in a cell


def layer_table(cut: Cut) -> Table:
    """List output channels and multiply-accumulates of every layer, before and after."""
    table = Table(title="pruned layers")
    for column in ("layer", "channels", "kept", "M MACs", "kept", "removed"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    cost, whole = cut.analysis.cost, cut.analysis.keep_all()
    before, after = cost.macs_by_operator(whole), cost.macs_by_operator(cut.keep)
    for work, old, new in zip(cost.work, before, after):
        weight = work.operator.input("Filter") or work.operator.input("Y")
        axes = cut.analysis.weights.get(weight)
        if axes is None:
            continue
        transposed = "transpose" in work.operator.type or work.operator.type == "matmul_v2"
        labels = axes.get(1 if transposed and 1 in axes else 0)
        if labels is None:
            continue
        share = 1 - new / old if old else 0.0
        table.add_row(
            weight.rpartition(".")[0],
            str(len(labels)),
            str(int(cut.keep[labels].sum())),
            f"{old / 1e6:.2f}",
            f"{new / 1e6:.2f}",
            f"{share:.1%}",
        )
    (macs_before, macs_after), (all_before, all_after) = cut.macs, cut.parameters
    table.add_section()
    table.add_row(
        "whole network",
        "",
        "",
        f"{macs_before / 1e6:.2f}",
        f"{macs_after / 1e6:.2f}",
        f"{1 - macs_after / macs_before:.1%}",
    )
    table.add_row(
        "parameters",
        "",
        "",
        f"{all_before / 1e6:.3f} M",
        f"{all_after / 1e6:.3f} M",
        f"{1 - all_after / all_before:.1%}",
    )
    return table


def group_table(analysis: Analysis) -> Table:
    """List the groups: number of channels, layers that make them, layers that are cut with them."""
    table = Table(title="channels that can be cut", show_lines=True)
    for column in ("group", "channels", "made by", "cut with them"):
        justify: JustifyMethod = "right" if column == "channels" else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for group in analysis.groups:
        makers = _layers(group.producers)
        others = [layer for layer in _layers(group.members) if layer not in makers]
        table.add_row(group.name, str(len(group)), _shortened(makers), _shortened(others))
    return table


def fixed_table(analysis: Analysis) -> Table:
    """List the channels that stay, each layer with the reason."""
    table = Table(title="channels that stay")
    for column in ("layer", "channels", "why"):
        justify: JustifyMethod = "right" if column == "channels" else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for fixed in analysis.fixed:
        table.add_row(fixed.layer, str(fixed.channels), str(fixed.reason))
    return table


def _layers(axes: Iterable[Axis]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name, _ in axes))


def _shortened(names: Sequence[str]) -> str:
    more = [f"... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "\n".join([*names[:SHOWN], *more])
