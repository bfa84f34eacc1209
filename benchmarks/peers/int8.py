"""The peers of int8.py: NNCF in an environment of its own, PaddleSlim in a process of its own.

PaddleSlim 2.6.0 needs the old IR and leaves a process other than it was:

    FLAGS_enable_pir_api=0 python -m benchmarks.peers.int8 paddleslim NETWORK FOLDER

quantizes a network with PACT and writes what its `save_quantized_model` does. As Paddle Inference
ends the whole process where a primitive fails, its files are tried in a process, too:

    python -m benchmarks.peers.int8 try FOLDER SETTINGS SHAPE
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import json
import logging
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from benchmarks.networks import build
from benchmarks.peers.processes import ROOT, PeerError, ask_paddleslim, last_line, run_script
from core.errors import ExportError
from core.export import lite
from core.network.batch_norms import reestimate
from core.runtimes.predictor import load_predictor
from core.targets.names import Format
from core.task import Task

NNCF = "nncf==3.4.0"
PRESETS = ("performance", "mixed")
SAMPLES = 8
SIZES = {"bisenetv2_cityscapes_1024x2048": (512, 512)}
# how its own documentation runs PaddleSlim's files, and how our predictor runs ours
SETTINGS = ("its own", "ours")
ANSWERS = "answers.npz"  # of PaddleSlim's eager model to the first image, in float and rounded
Run = Callable[[], object]


def prepare(network: str) -> tuple[Task, Layer, list[np.ndarray]]:
    """Build a network whose norms know these images; return it and the images.

    Without that no convolution has a bias, which no trained network is like, and which OpenVINO
    2026.4 adds residual connections wrongly for.
    """
    task, model = build(network)
    rng = np.random.default_rng(0)
    height, width = SIZES.get(network, tuple(task.input_spec()[0].shape[2:]))
    images = []
    for _ in range(SAMPLES):
        coarse = np.kron(rng.normal(size=(1, 3, 16, 16)), np.ones((height // 16, width // 16)))
        images.append((coarse + 0.1 * rng.normal(size=coarse.shape)).astype("float32"))
    reestimate(model, [[paddle.to_tensor(image)] for image in images])
    return task, model, images


def formats_here() -> tuple[Format, ...]:
    """Return the formats that can be written here; says why one cannot."""
    try:
        lite.find_python()
    except ExportError as error:
        logging.warning("no file for Paddle Lite: %s", error)
        return ("paddle", "onnx")
    return ("paddle", "onnx", "lite")


def install_nncf(work_dir: Path, openvino: str) -> Path:
    """Make an environment with NNCF beside this version of OpenVINO, unless it is there."""
    place = work_dir / "nncf"
    python = place / "bin" / "python"
    if not python.is_file():
        venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", NNCF, f"openvino=={openvino}"]
        subprocess.run(pip, check=True)
    return python


def quantize_with_nncf(
    python: Path, model: Path, images: Sequence[np.ndarray], folder: Path
) -> dict[str, Any]:
    """Quantize a float ONNX file after training; return version and seconds of each preset."""
    samples = folder / "images.npz"
    np.savez(samples, *images)
    script = str(ROOT / "benchmarks" / "peers" / "nncf_int8.py")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), script, str(model), str(samples), str(folder), *PRESETS],
        env=variables,
        capture_output=True,
        text=True,
    )
    result = folder / "nncf.json"
    if not result.is_file():
        raise PeerError(last_line(done.stderr))
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def quantize_with_paddleslim(network: str, folder: Path, seconds: float) -> float:
    """Quantize and export in a process of so much time; return the seconds of the export."""
    arguments = ["paddleslim", network, str(folder)]
    return float(ask_paddleslim(__file__, arguments, folder / "seconds.json", seconds))


def try_paddleslim(folder: Path, settings: str, shape: Sequence[int]) -> None:
    """Run PaddleSlim's file once in a process.

    Raises:
        PeerError: It ends the process.
    """
    arguments = ["try", str(folder), settings, ",".join(map(str, shape))]
    done = run_script(__file__, arguments, {})
    if done.returncode:
        raise PeerError(last_line(done.stderr))


def paddleslim_run(folder: Path, settings: str) -> Callable[[np.ndarray], np.ndarray]:
    """Load PaddleSlim's file and return what answers an image with its first output."""
    if settings == "ours":
        ours = load_predictor(folder, "paddle")
        return lambda image: next(iter(ours.run(image).values()))
    from paddle import inference

    config = inference.Config(str(folder / "model.pdmodel"), str(folder / "model.pdiparams"))
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(1)
    config.enable_mkldnn()
    config.enable_mkldnn_int8()
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(image: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(image)
        predictor.run()
        answer: np.ndarray = result.copy_to_cpu()
        return answer

    return run


def drift(folder: Path, answer: np.ndarray) -> tuple[float, float]:
    """Return how far an answer of PaddleSlim's file is from its eager model, and that from float.

    Both are root mean squares relative to those of the eager model's answer.
    """
    with np.load(folder / ANSWERS) as answers:
        rounded, exact = answers["rounded"].astype("float64"), answers["exact"]
    whole = np.linalg.norm(rounded)
    apart, effect = (float(np.linalg.norm(other - rounded) / whole) for other in (answer, exact))
    return apart, effect


def _quantize_and_save(network: str, folder: Path) -> None:
    from paddleslim.dygraph.quant import QAT

    task, model, images = prepare(network)
    exact = _answer(task, model, images[0])
    quanter = QAT(
        config={
            "weight_preprocess_type": None,
            "activation_preprocess_type": "PACT",
            "weight_quantize_type": "channel_wise_abs_max",
            "activation_quantize_type": "moving_average_abs_max",
            "quantizable_layer_type": ["Conv2D", "Linear"],
        }
    )
    quanter.quantize(model)
    model.train()
    with paddle.no_grad():
        for image in images:
            model(paddle.to_tensor(image))
    np.savez(folder / ANSWERS, exact=exact, rounded=_answer(task, model, images[0]))
    shape = [None, *images[0].shape[1:]]
    spec = paddle.static.InputSpec(shape, "float32", "image")
    begin = time.process_time()
    quanter.save_quantized_model(model, str(folder / "model"), input_spec=[spec])
    seconds = json.dumps(time.process_time() - begin)
    (folder / "seconds.json").write_text(seconds, encoding="utf-8")


def _answer(task: Task, model: Layer, image: np.ndarray) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        outputs = task.name_outputs(model(paddle.to_tensor(image)))
    answer: np.ndarray = next(iter(outputs.values())).numpy()
    return answer


def main() -> None:
    kind, *arguments = sys.argv[1:]
    if kind == "paddleslim":
        network, folder = arguments
        _quantize_and_save(network, Path(folder))
    else:
        folder, settings, shape = arguments
        image = np.zeros([int(size) for size in shape.split(",")], "float32")
        paddleslim_run(Path(folder), settings)(image)


if __name__ == "__main__":
    main()
