"""Rehearse a run without training: list what it will do, epoch by epoch, or why it would fail."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle.nn import Layer
from rich.table import Table

from core.graph.batch_norm_folding import trace_folded
from core.graph.cost import count_macs, count_parameters
from core.network.modes import training_mode
from core.prune.pruner import fixed_specs
from core.quant.layers import quantized_layers
from core.quant.sites import float_sites
from core.strategy import Phase, Strategy
from core.task import Task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.optimizers import Optimizer
from core.training.recipe import Recipe, check_beginning
from core.training.schedules import learning_rate

FEW = 2  # samples whose losses are tried
SAMPLES = 100  # steps of a window at which its learning rate is looked at


@dataclass(frozen=True)
class ModelSize:
    """Size and cost of a model.

    Attributes:
        macs: Multiply-accumulates for one input.
        parameters: Numbers that training changes.
        float_mb: Size of the weights in a float file, batch norms folded.
        int8_mb: Size of the weights in an int8 file; None if nothing is quantized.
    """

    macs: int
    parameters: int
    float_mb: float
    int8_mb: float | None


@dataclass(frozen=True)
class Stretch:
    """Epochs [start, end) in which the same strategies are at work.

    Attributes:
        start: First epoch.
        end: First epoch after it.
        steps: Optimizer steps in it.
        events: Strategies that begin or end at its start, with the layers they change.
        rates: Learning rate of the first step, the highest, and that of the last step; without
            the warm-up of a strategy.
        optimizer: Its kind.
        size: Size of the model.
    """

    start: int
    end: int
    steps: int
    events: tuple[str, ...]
    rates: tuple[float, float, float]
    optimizer: str
    size: ModelSize


def rehearse(engine: Engine, recipe: Recipe) -> list[Stretch]:
    """Walk through the windows of a run on its model, which is changed as the run will change it.

    Args:
        engine: Engine of the run, not trained.
        recipe: Recipe of the run.

    Raises:
        UserError: The run would fail, now or in a later epoch.
    """
    _try_losses(engine)
    model = engine.model
    check_beginning(recipe, checkpoint.load_pretrained(engine.task, model))
    edges = {0, engine.epochs} | {edge for step in recipe.steps for edge in (step.start, step.end)}
    edges |= {export.after_epoch for export in recipe.exports}
    borders = sorted(edges)
    live: dict[int, Strategy] = {}
    stretches = []
    for start, end in itertools.pairwise(borders):
        events = [
            f"{recipe.steps[position].kind}: ends"
            for position, strategy in live.items()
            if recipe.steps[position].end == start and strategy.phase != Phase.SHAPE
        ]
        events += [
            f"{each.form} files are written to {each.save_dir}"
            for each in recipe.exports
            if each.after_epoch == start
        ]
        for position in recipe.active(start):
            if position in live:
                continue
            step = recipe.steps[position]
            context = dataclasses.replace(engine.context(step, False), epoch=start)
            live[position] = step.build()
            with step.named(position):
                events += live[position].rehearse(model, context) or [f"{step.kind}: begins"]
        events += [
            f"{each.form} files are written to {each.save_dir} at the end"
            for each in recipe.exports
            if each.after_epoch == end == engine.epochs
        ]
        live = {position: live[position] for position in recipe.active(start)}
        stretches.append(_stretch(engine, list(live.values()), (start, end), events))
    return stretches


def _try_losses(engine: Engine) -> None:
    """Make the losses of two samples, which a network and its losses may not agree on."""
    task, model = engine.task, engine.model
    with contextlib.closing(engine.train_loader.epoch(batches=1)) as batches:
        batch = {name: value[:FEW] for name, value in next(batches).items()}
    with training_mode(model), paddle.no_grad():
        outputs = task.name_outputs(model(*[batch[spec.name] for spec in task.input_spec()]))
        task.losses(outputs, batch)


def measured(task: Task, model: Layer) -> ModelSize:
    """Measure the size and cost of a model, quantized or not."""
    specs = fixed_specs(task)
    with float_sites(model):
        macs = count_macs(model, [tuple(spec.shape) for spec in specs], specs)
        graph = trace_folded(model, specs)
    quantized = {f"{path}.weight" for path in quantized_layers(model)}
    whole = sum(weight.nbytes for weight in graph.weights.values())
    saved = sum(w.nbytes - w.size for name, w in graph.weights.items() if name in quantized)
    int8 = (whole - saved) / 1e6 if quantized else None
    return ModelSize(macs, count_parameters(model), whole / 1e6, int8)


def timeline_table(stretches: Sequence[Stretch]) -> Table:
    """Return the timeline as a table."""
    table = Table(title="timeline", show_lines=True)
    for column in ("epochs", "steps", "what happens", "learning rate", "M MACs", "M parameters"):
        table.add_column(column, justify="left" if column == "what happens" else "right")
    table.add_column("MB (float, int8)", justify="right")
    for each in stretches:
        size = each.size
        weights = f"{size.float_mb:.3f}"
        if size.int8_mb is not None:
            weights += f", {size.int8_mb:.3f}"
        table.add_row(
            f"{each.start + 1}-{each.end}" if each.end > each.start + 1 else f"{each.end}",
            str(each.steps),
            "\n".join(each.events) or "training",
            f"{' -> '.join(_distinct(each.rates))} ({each.optimizer})",
            f"{size.macs / 1e6:.2f}",
            f"{size.parameters / 1e6:.3f}",
            weights,
        )
    return table


def _stretch(
    engine: Engine, live: Sequence[Strategy], window: tuple[int, int], events: Sequence[str]
) -> Stretch:
    config, (start, end), per_epoch = engine.config, window, engine.steps_per_epoch
    kind = next((c for each in live if (c := each.optimizer()) is not None), config.optimizer)
    Optimizer(dict(engine.model.named_parameters()), kind, config.clip_norm)
    rate = next((r for each in live if (r := each.learning_rate()) is not None), None)
    for strategy in live:
        rate = (config.learning_rate if rate is None else rate) * strategy.learning_rate_scale()
    whole = config.learning_rate if rate is None else rate
    first, last = start * per_epoch, end * per_epoch - 1
    shown = sorted({first + (last - first) * i // SAMPLES for i in range(SAMPLES + 1)})
    total = engine.total_steps
    rates = [learning_rate(whole, config.schedule, step, total, per_epoch) for step in shown]
    return Stretch(
        start=start,
        end=end,
        steps=(end - start) * per_epoch,
        events=tuple(events),
        rates=(rates[0], max(rates), rates[-1]),
        optimizer=kind.kind,
        size=measured(engine.task, engine.model),
    )


def _distinct(rates: Sequence[float]) -> list[str]:
    """Return the rates as texts, neighbours that look alike once."""
    texts = [f"{rate:.3g}" for rate in rates]
    return [text for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
