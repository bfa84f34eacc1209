"""A trained network as others quantize it after training.

NNCF quantizes our float ONNX file with each of its presets, as they are and with `overflow_fix` for
all layers, in an environment of its own; its files are for OpenVINO. PaddleSlim quantizes the
network itself with each of its observers; its files are for Paddle Inference, which runs them as
PaddleSlim's documentation says, with int8 of oneDNN, or as our predictor runs ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.peers import paddleslim_ptq
from benchmarks.peers.int8 import SETTINGS, try_paddleslim
from benchmarks.peers.processes import ROOT, PeerError, last_line
from core.export.files import MODEL, PARAMS
from core.quant.calibration import CalibrationBatches
from core.runtimes.description import DeployDescription, read_description, write_description
from core.targets.names import Backend

NNCF = MappingProxyType(  # preset and fix
    {
        "NNCF": ("performance", "first_layer_only"),
        "NNCF, overflow_fix": ("performance", "enable"),
        "NNCF, mixed": ("mixed", "first_layer_only"),
        "NNCF, mixed, overflow_fix": ("mixed", "enable"),
    }
)
PEERS = (*NNCF, *paddleslim_ptq.QUANTIZERS)


@dataclass(frozen=True)
class PeerFiles:
    """What a peer made of a network.

    Attributes:
        folder: With its files and our description of the network; None if it failed.
        backend: The runtime that they are for.
        seconds: Of processor time, calibration included.
        bytes: Of the files.
        fails: What failed: the peer, or Paddle Inference with the settings of its documentation.
    """

    folder: Path | None
    backend: Backend
    seconds: float = 0.0
    bytes: int = 0
    fails: str = ""


def quantize_with_peers(
    saved: Path,
    exported: Path,
    images: CalibrationBatches,
    folder: Path,
    nncf: Path,
    names: Sequence[str] = PEERS,
) -> Iterator[tuple[str, PeerFiles]]:
    """Yield what each peer makes of a network, by its name in our tables.

    Args:
        saved: Checkpoint of the network in float.
        exported: Our export of it, with an ONNX file for OpenVINO.
        images: What it is calibrated on.
        folder: New folder for the files.
        nncf: Interpreter that has NNCF.
        names: Of the peers.
    """
    folder.mkdir()
    samples = folder / "samples.npz"
    np.savez(samples, *(row.numpy()[None] for batch in images() for row in batch[0]))
    for name in names:
        if name in NNCF:
            made = _with_nncf(nncf, exported, samples, folder / name, *NNCF[name])
        else:
            quantizer = paddleslim_ptq.QUANTIZERS[name]
            made = _with_paddleslim(saved, exported, samples, folder / name, quantizer)
        yield name, made


def _with_nncf(
    python: Path, exported: Path, samples: Path, folder: Path, preset: str, fix: str
) -> PeerFiles:
    folder.mkdir()
    script = str(ROOT / "benchmarks" / "peers" / "nncf_int8.py")
    words = [str(exported / "model.onnx"), str(samples), str(folder), preset, "--overflow_fix", fix]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), script, *words], env=variables, capture_output=True, text=True
    )
    graph = folder / f"{preset}.xml"
    if not graph.is_file():
        return PeerFiles(None, "openvino", fails=last_line(done.stderr))
    files = [each.rename(folder / f"model{each.suffix}") for each in folder.glob(f"{preset}.*")]
    write_description(_described(exported), folder)
    told: dict[str, Any] = json.loads((folder / "nncf.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in files)
    return PeerFiles(folder, "openvino", told["seconds"][preset], size)


def _with_paddleslim(
    saved: Path, exported: Path, samples: Path, folder: Path, quantizer: str
) -> PeerFiles:
    try:
        seconds = paddleslim_ptq.quantize(saved, samples, quantizer, folder)
    except PeerError as error:
        return PeerFiles(None, "paddle", fails=str(error))
    described = _described(exported)
    paddleslim_ptq.name_outputs(folder / MODEL, [port.name for port in described.outputs])
    write_description(described, folder)
    size = sum((folder / name).stat().st_size for name in (MODEL, PARAMS))
    with np.load(samples) as arrays:
        shape = next(iter(arrays.values())).shape
    try:
        try_paddleslim(folder, SETTINGS[0], shape)
    except PeerError as error:
        return PeerFiles(folder, "paddle", seconds, size, f"with settings of its own: {error}")
    return PeerFiles(folder, "paddle", seconds, size)


def _described(exported: Path) -> DeployDescription:
    described = read_description(exported)
    assert described is not None
    return described
