"""Quantize a checkpoint of ours after training with PaddleSlim 2.6.0, in a process of its own:

    FLAGS_enable_pir_api=0 python -m benchmarks.peers.paddleslim_ptq CHECKPOINT IMAGES.npz \\
        QUANTIZER FOLDER

writes what its `save_quantized_model` does, and seconds.json with the processor time that it took.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import paddle
from paddle.base.proto import framework_pb2
from paddle.static import InputSpec

from benchmarks.peers.processes import ask_paddleslim
from core.graph.operators import only
from core.training import checkpoint

QUANTIZERS = MappingProxyType(  # of activations, by the rows of our tables; its default is first
    {
        "PaddleSlim, KL": "KLQuantizer",
        "PaddleSlim, histogram": "HistQuantizer",
        "PaddleSlim, abs_max": "AbsmaxQuantizer",
    }
)
LIMIT_SECONDS = 900  # of processor time, for each
SECONDS = "seconds.json"


def quantize(saved: Path, images: Path, quantizer: str, folder: Path) -> float:
    """Let PaddleSlim quantize; return the seconds of processor time.

    Args:
        saved: Checkpoint of ours, in float.
        images: .npz of arrays [1, C, H, W].
        quantizer: Of activations, in PaddleSlim's words.
        folder: New folder for its files.

    Raises:
        PeerError: It failed, or took too long.
    """
    folder.mkdir()
    arguments = [str(saved.resolve()), str(images.resolve()), quantizer, str(folder.resolve())]
    return float(ask_paddleslim(__file__, arguments, folder / SECONDS, LIMIT_SECONDS))


def name_outputs(file: Path, names: Sequence[str]) -> None:
    """Give the outputs of a .pdmodel other names."""
    program = framework_pb2.ProgramDesc()
    program.ParseFromString(file.read_bytes())
    (block,) = program.blocks
    fetches = [op for op in block.ops if op.type == "fetch"]
    given = dict(zip((only(op.inputs, "X") for op in fetches), names, strict=True))
    for variable in block.vars:
        variable.name = given.get(variable.name, variable.name)
    for op in block.ops:
        for slot in (*op.inputs, *op.outputs):
            slot.arguments[:] = [given.get(name, name) for name in slot.arguments]
    file.write_bytes(program.SerializeToString())


def _quantize(saved: str, images: str, quantizer: str, folder: str) -> float:
    from paddleslim.dygraph.quant import PTQ

    task, model = checkpoint.restore(saved)
    with np.load(images) as arrays:
        samples = list(arrays.values())
    begin = time.process_time()
    peer = PTQ(activation_quantizer=quantizer)
    model.eval()
    quantized = peer.quantize(model, inplace=True)
    with paddle.no_grad():
        for sample in samples:
            quantized(paddle.to_tensor(sample))
    spec = InputSpec([None, *samples[0].shape[1:]], "float32", task.input_spec()[0].name)
    peer.save_quantized_model(quantized, f"{folder}/model", input_spec=[spec])
    return time.process_time() - begin


def main() -> None:
    saved, images, quantizer, folder = sys.argv[1:]
    seconds = _quantize(saved, images, quantizer, folder)
    Path(folder, SECONDS).write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
