"""Quantize a float ONNX file with NNCF; runs in the environment that NNCF has, without our code.

    python benchmarks/int8_nncf.py MODEL.onnx IMAGES.npz FOLDER PRESET...

Writes FOLDER/PRESET.xml for each preset and FOLDER/nncf.json with its version and the seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nncf
import numpy as np
import openvino


def main() -> None:
    model, images, folder, *presets = sys.argv[1:]
    samples = list(np.load(images).values())
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
        )
        found["seconds"][preset] = time.process_time() - begin
        openvino.save_model(quantized, Path(folder, f"{preset}.xml"), compress_to_fp16=False)
    Path(folder, "nncf.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
