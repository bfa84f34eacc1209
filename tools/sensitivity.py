"""Measure how much of the metric each layer's channels, or with --quant its rounding, are worth."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, options
from core.prune.choices import CRITERIA

if TYPE_CHECKING:
    from paddle.nn import Layer

    from core.task import Task

EVERY = ("*",)


def parse_arguments() -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)
    help_quant = "measure int8 of each layer alone; --quant --help shows its options"
    first.add_argument("--quant", action="store_true", help=help_quant)
    quant = first.parse_known_args()[0].quant
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Each way has its own --help.", parents=[first]
    )
    options.add_config_arguments(parser, required=False)
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint (folder or weights file)")
    if quant:
        add("--observer", help="how ranges are chosen, for weights in float (default: the task's)")
        options.add_calibration_arguments(parser)
        add("--target", help="runtime to quantize for, for weights in float (openvino)")
        add("--speed_control", action="store_true", help="measure which layers int8 makes faster")
    else:
        add("--print_groups", action="store_true", help="only list which channels can be removed")
        text = "how the channels to remove are chosen (default: l1_norm)"
        add("--criterion", choices=CRITERIA, help=text)
        text = "remove this share of the channels, then twice it, ... (0.2)"
        add("--delta_rate", type=options.part, help=text)
    add("--eval_rate", type=options.share, default=1.0, help="share of the validation data (1.0)")
    text = "only weights of these names, or with --quant layers: 'blocks.*' (default: all)"
    add("--params", nargs="+", help=text)
    add("--batch_size", type=options.positive, default=1, help="images of a validation batch (1)")
    text = "for the results (output/sensitivity)"
    add("--save_dir", type=options.path, default=Path("output/sensitivity"), help=text)
    return cli.parse(parser)


def rounding(task: Task, model: Layer, arguments: argparse.Namespace) -> None:
    from core.quant.calibration import calibration_images
    from core.quant.layers import quantized_layers
    from core.quant.post_training import PtqConfig, quantize_after_training
    from core.training.evaluation import measure, validation_loader
    from core.training.measurements import task_meter
    from core.workflows import layer_sensitivity, ptq
    from core.workflows.layer_speed import measure_speed

    file = arguments.save_dir / "quant_sensitivities.json"
    target = arguments.target or "openvino"
    if quantized_layers(model):
        unused = ("observer", "target", "images", "num_calib")
        cli.refuse(arguments, unused, "these weights are quantized already")
    else:
        [config] = ptq.read_each(PtqConfig, {"target": target}, arguments.observer)
        images = calibration_images(task, arguments.images, arguments.num_calib, progress=True)
        quantize_after_training(task, model, images, config, progress=True)
    console = cli.wide_console()
    if arguments.speed_control:
        found = measure_speed(task, model, target)
        console.print(found.table())
        print(f"never_quantize: {list(found.slow)}")
    val = validation_loader(task, arguments.batch_size)
    meter = task_meter(task, partial(measure, task, val), arguments.eval_rate)
    inputs = layer_sensitivity.few_inputs(task, val)
    costs = layer_sensitivity.measure(task, model, inputs, meter, file, arguments.params or EVERY)
    layer_sensitivity.plot(costs, file.with_suffix(".png"))
    console.print(costs.table())
    print(f"{file}, {file.with_suffix('.png')}")


def pruning(task: Task, model: Layer, arguments: argparse.Namespace) -> None:
    from core.prune.planning import sensitivity
    from core.prune.pruner import build_pruner
    from core.prune.report import fixed_table, group_table
    from core.training.evaluation import measure, validation_loader
    from core.training.measurements import task_meter

    pruner, console = build_pruner(task, model), cli.wide_console()
    pruner.probe()
    found, folder = pruner.analysis, arguments.save_dir
    if arguments.print_groups:
        unused = ("criterion", "delta_rate", "params")
        cli.refuse(arguments, unused, "has no effect on --print_groups, which measures nothing")
        console.print(group_table(found), fixed_table(found))
        return
    run = partial(measure, task, validation_loader(task, arguments.batch_size))
    meter, file = task_meter(task, run, arguments.eval_rate), folder / "sensitivities.json"
    losses = sensitivity.measure_task(
        task,
        model,
        found,
        criterion=arguments.criterion or "l1_norm",
        globs=arguments.params or EVERY,
        delta_rate=arguments.delta_rate or 0.2,
        meter=meter,
        file=file,
    )
    sensitivity.plot(losses, folder / "sensitivity.png")
    console.print(losses.table())
    print(f"{file}, {folder / 'sensitivity.png'}")


def main() -> None:
    arguments = parse_arguments()
    import paddle

    from core.training.run import pick_device

    paddle.set_device(pick_device("auto"))
    task, model = cli.restored(arguments)
    (rounding if arguments.quant else pruning)(task, model, arguments)


if __name__ == "__main__":
    cli.run(main)
