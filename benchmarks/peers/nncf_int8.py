"""Quantize a float ONNX file with NNCF; runs in the environment that NNCF has, without our code.

    python -m benchmarks.peers.nncf_int8 MODEL.onnx IMAGES.npz FOLDER PRESET... [--overflow_fix FIX]

Writes FOLDER/PRESET.xml for each preset and FOLDER/nncf.json with its version and the seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nncf
import numpy as np
import openvino


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "images", "folder"):
        parser.add_argument(name)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--overflow_fix", default="first_layer_only")
    given = parser.parse_args()
    model, folder, presets = given.model, given.folder, given.presets
    fix = nncf.OverflowFix(given.overflow_fix)
    samples = list(np.load(given.images).values())
    found = {"version": nncf.__version__, "samples": len(samples), "seconds": {}}
    for preset in presets:
        network = openvino.Core().read_model(model)
        begin = time.process_time()
        quantized = nncf.quantize(
            network,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset(preset),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(samples),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
        found["seconds"][preset] = time.process_time() - begin
        openvino.save_model(quantized, Path(folder, f"{preset}.xml"), compress_to_fp16=False)
    Path(folder, "nncf.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
