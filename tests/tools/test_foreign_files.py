"""Files and commands of other projects, run as they stand on a little drawn data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from core.runtimes.description import read_description
from core.training.checkpoint import load_description

Call = Callable[..., tuple[Any, str]]
PADDLECLAS = """
Global: {output_dir: ./output/, device: gpu, epochs: 1, image_shape: [3, 32, 32],
         save_inference_dir: ./inference, print_batch_step: 10}
Arch: {name: MobileNetV3_small_x0_35, class_num: 2, pretrained: false}
Loss: {Train: [{CELoss: {weight: 1.0}}], Eval: [{CELoss: {weight: 1.0}}]}
Optimizer: {name: Momentum, momentum: 0.9, lr: {name: Constant, learning_rate: 0.01}}
DataLoader:
  Train:
    dataset: {name: ImageNetDataset, image_root: pictures, cls_label_path: pictures/train_list.txt,
              transform_ops: [DecodeImage: {to_rgb: true}, RandCropImage: {size: 32},
                              NormalizeImage: {scale: 1.0/255.0}]}
    sampler: {batch_size: 4, shuffle: true}
    loader: {num_workers: 0}
  Eval:
    dataset: {name: ImageNetDataset, image_root: pictures, cls_label_path: pictures/val_list.txt,
              transform_ops: [DecodeImage: {to_rgb: true}, ResizeImage: {resize_short: 36},
                              CropImage: {size: 32}, NormalizeImage: {scale: 1.0/255.0}]}
    sampler: {batch_size: 4, shuffle: false}
    loader: {num_workers: 0}
Metric: {Eval: [{TopkAcc: {topk: [1, 2]}}]}
"""
SLIM = "Slim: {prune: {name: fpgm, pruned_ratio: 0.3}}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        lines = []
        for index in range(count):
            name = f"{split}{index}.png"
            picture = generator.integers(0, 255, (40, 48, 3), np.uint8)
            cv2.imwrite(str(folder / name), picture // 2 if index % 2 else picture)
            lines.append(f"{name} {index % 2}")
        (folder / f"{split}_list.txt").write_text("\n".join(lines))
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_paddleclas_trains_prunes_and_exports(
    call_tool: Call, pictures: Path, tmp_path: Path
) -> None:
    plain = write(tmp_path / "plain.yaml", PADDLECLAS)
    slim = write(tmp_path / "prune.yaml", PADDLECLAS + SLIM)
    cpu = ["-o", "Global.device=cpu"]
    status, output = call_tool("train.py", "-c", plain, *cpu)
    assert status == 0, output
    assert f"{plain}: read as a file of PaddleClas" in output
    assert "not used here: Loss.Eval, Global.print_batch_step" in output
    best = "./output/MobileNetV3_small_x0_35/best_model"
    trained = ["-o", f"Global.pretrained_model={best}"]
    status, output = call_tool("eval.py", "-c", plain, *trained)  # as theirs
    assert status == 0, output
    assert "top1: " in output

    quant = write(tmp_path / "quant.yaml", PADDLECLAS + "Slim: {quant: {name: pact}}")
    status, output = call_tool("train.py", "-c", quant, *cpu, *trained, "--save_dir", "quantized")
    assert status == 0, output
    assert load_description(tmp_path / "quantized/best_model").edits[0][0] == "qat"

    # told before it is done, and saved in our own words
    pruned = ["-c", slim, *cpu, *trained, "--save_dir", "pruned"]
    status, output = call_tool("train.py", *pruned, "--dry_run", "--save_config", "ours.yml")
    assert status == 0, output
    assert "prune: " in output
    ours = yaml.safe_load((tmp_path / "ours.yml").read_text())
    assert ours["slim"]["strategies"][0]["criterion"] == "fpgm"
    status, output = call_tool("train.py", "-c", "ours.yml", "--save_dir", "pruned")
    assert status == 0, output
    assert load_description(tmp_path / "pruned/best_model").edits[0][0] == "prune"

    weights = ["-o", "Global.pretrained_model=pruned/best_model"]
    status, output = call_tool("export_model.py", "-c", slim, *weights)
    assert status == 0, output
    description = read_description(tmp_path / "inference")
    assert description is not None
    assert description.report is not None
    assert description.inputs[0].shape[2:] == (32, 32)


@pytest.mark.chain
def test_paddleclas_quantizes_after_training(
    call_tool: Call, pictures: Path, tmp_path: Path
) -> None:
    text = PADDLECLAS.replace("MobileNetV3_small_x0_35", "SqueezeNet1_1")
    plain = write(tmp_path / "plain.yaml", text)
    status, output = call_tool("train.py", "-c", plain, "-o", "Global.device=cpu")
    assert status == 0, output
    best = "./output/SqueezeNet1_1/best_model"
    weights = ["-o", f"Global.pretrained_model={best}"]
    status, output = call_tool("export_model.py", "-c", plain, *weights, "--format", "paddle")
    assert status == 0, output
    model = ["-o", "Global.save_inference_dir=./inference", "--observer", "avg"]
    status, output = call_tool("ptq.py", "-c", plain, *model)
    assert status == 0, output
    description = read_description(tmp_path / "inference/quant_post_static_model/int8")
    assert description is not None
    assert description.quantization is not None
    assert description.quantization.layers > 20


def test_a_tool_says_what_it_wants(call_tool: Call, tmp_path: Path) -> None:
    status, output = call_tool("export_model.py", "--save_dir", "x")
    assert status == 2
    assert "error: --weights: required, but not given" in output
    status, output = call_tool("eval.py")
    assert (status, "error: --weights: required, but not given" in output) == (2, True)
    status, output = call_tool("ptq.py", "--save_dir", "x")
    assert "error: --model_dir: required, but not given" in output
    config = write(tmp_path / "plain.yaml", PADDLECLAS)
    status, output = call_tool("ptq.py", "-c", config, "-o", "Global.save_inference_dir=./gone")
    assert status == 2
    assert "error: gone: no such folder of an exported model" in output


PADDLESEG = """
batch_size: 2
iters: 4
train_dataset:
  type: Dataset
  dataset_root: maps
  train_path: maps/train.txt
  num_classes: 2
  transforms: [{type: Resize, target_size: [64, 64]}, {type: Normalize}]
val_dataset:
  type: Dataset
  dataset_root: maps
  val_path: maps/train.txt
  num_classes: 2
  transforms: [{type: Resize, target_size: [64, 64]}, {type: Normalize}]
optimizer: {type: SGD, momentum: 0.9, weight_decay: 4.0e-5}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01, end_lr: 0, power: 0.9}
loss: {types: [{type: CrossEntropyLoss}], coef: [1]}
model: {type: FastSCNN, num_classes: 2, enable_auxiliary_loss: false}
"""


def test_paddleseg_trains_and_quantizes(call_tool: Call, tmp_path: Path) -> None:
    """The commands of its guide, apart from the folder of the tools."""
    folder = tmp_path / "maps"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), generator.integers(0, 255, (64, 64, 3), np.uint8))
        cv2.imwrite(str(folder / f"{index}_label.png"), np.eye(64, dtype=np.uint8))
    (folder / "train.txt").write_text("0.png 0_label.png\n1.png 1_label.png")
    config = write(tmp_path / "fastscnn.yml", PADDLESEG)
    flags = ["--config", config, "--device", "cpu", "--do_eval", "--save_interval", "2"]
    longer = ["--iters", "40", "--save_interval", "20"]  # until batch norms know the activations
    status, output = call_tool("train.py", *flags, *longer, "--save_dir", "output_fp32")
    assert status == 0, output
    trained = "output_fp32/best_model/model.pdparams"
    more = ["--model_path", trained, "--learning_rate", "0.001", "--save_dir", "output_quant"]
    status, output = call_tool("qat_train.py", *flags, *more)
    assert status == 0, output
    assert "qat: learning rate x 1" in output
    description = load_description(tmp_path / "output_quant/best_model")
    assert (description.epoch, description.edits[-1][0]) in ((1, "qat"), (2, "qat"))
    best = "output_quant/best_model/model.pdparams"
    status, output = call_tool(
        *("qat_export.py", "--config", config, "--model_path", best),
        *("--save_dir", "output_quant_infer", "--format", "paddle"),
    )
    assert status == 0, output
    made = {path.name for path in (tmp_path / "output_quant_infer").iterdir()}
    assert {"model.pdmodel", "model.pdiparams", "deploy.yml"} <= made
    gone = ["--config", config, "--model_path", "gone.pdparams", "--save_dir", "int8"]
    status, output = call_tool("qat_export.py", *gone)
    assert status == 2
    assert "error: gone.pdparams: no such weights file" in output


def test_flags_of_paddleseg_for_a_config_of_ours(call_tool: Call, tmp_path: Path) -> None:
    ours = Path(__file__).resolve().parents[2] / "configs/cls/demo.yml"
    flags = ["-c", ours, "--learning_rate", "0.5", "--model_path", "x", "--do_eval"]
    status, output = call_tool("train.py", *flags, "--save_config", "ours.yml")
    assert status == 0, output
    saved = yaml.safe_load((tmp_path / "ours.yml").read_text())
    assert (saved["train"]["learning_rate"], saved["model"]["pretrained"]) == (0.5, "x")
    status, output = call_tool("train.py", "-c", ours, "--save_interval", "3")
    assert status == 2
    assert "error: --save_interval: belongs to files of PaddleSeg" in output
