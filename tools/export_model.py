"""Export a trained model for deployment, after comparing it with the original in each runtime."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse

from core import cli, options

EPILOG = """\
SAVE_DIR then holds deploy.yml and the formats asked for: model.pdmodel with model.pdiparams
(paddle), model.onnx (onnx), model.xml with model.bin (openvino), model.nb (lite, for Paddle Lite).
Files that answer differently go to SAVE_DIR.rejected, with the reason.
Endings: raw (the network as it is) everywhere; softmax, argmax (cls, seg); points (keypoint);
or paths of layers with commas between, for what these put out.
A file of PaddleClas as CONFIG may name weights and folder: Global.pretrained_model and
Global.save_inference_dir.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_config_arguments(parser, required=False)
    options.add_weights_argument(parser, "checkpoint (folder or weights file) to export")
    options.add_export_arguments(parser, "paddle")
    options.add_card_argument(parser)
    options.add_rewrite_argument(parser)
    parser.add_argument(
        "--input_shape",
        type=options.integers,
        metavar="N,C,H,W",
        help="size of the input; without N, any batch; --input_shape=-1,3,-1,-1: any size too "
        "(default: the task's size, any batch)",
    )
    parser.add_argument("--ending", default="raw", help="what the file puts out, see below (raw)")
    parser.add_argument("--opset", type=int, default=13, help="ONNX opset, at least 13 (13)")
    return cli.parse(parser)


def main() -> None:
    arguments = parse_arguments()
    cli.complete(arguments, "weights", "save_dir")
    from core.export.files import check_formats
    from core.export.package import export
    from core.export.parity import summary
    from core.workflows.licences import check_licence
    from core.workflows.model_card import write_card

    check_formats(arguments.format)
    if arguments.card is not None:
        check_licence(arguments.card)
    task, model = cli.restored(arguments)
    made = export(
        task,
        model,
        arguments.save_dir,
        formats=arguments.format,
        ending=arguments.ending,
        input_shape=arguments.input_shape,
        opset=arguments.opset,
        overwrite=arguments.overwrite,
        rewritten=arguments.rewrite == "on",
    )
    report = made.description.report
    for runtime, line in summary(made.differences).items():
        print(f"same as the original in {runtime}: {line}")
    for name, count in made.file_bytes.items():
        print(f"{name:<16} {count:>12,} bytes")
    if report is not None:
        shapes = " ".join("x".join(map(str, shape)) for shape in report.input_shapes)
        print(f"size {report.size_mb:.3f} MB ({' + '.join(made.sized_files)})")
        print(f"parameters {report.parameters / 1e6:.3f} M")
        print(f"MACs {report.macs / 1e6:.1f} M at {shapes}")
    if arguments.card is not None:
        card = write_card(
            made.folder, task, licence=arguments.card, checks=summary(made.differences)
        )
        print(f"model card: {card}")
    print(f"exported to {made.folder}")


if __name__ == "__main__":
    cli.run(main)
