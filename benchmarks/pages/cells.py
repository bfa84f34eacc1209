"""Cells and words that several pages have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUNTIMES = ("paddle", "onnxruntime", "openvino")
FILES = ("model.pdiparams", "both", "model.onnx", "model.nb")


def shares_of_float(sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the size of each kind of int8 file as a share of the float file.

    Args:
        sizes: Bytes in int8 and in float, by name of the file.
    """
    whole = dict(sizes)
    program, weights = whole["model.pdmodel"], whole["model.pdiparams"]
    whole["both"] = program[0] + weights[0], program[1] + weights[1]
    return [f"{whole[name][0] / whole[name][1]:.0%}" if name in whole else "-" for name in FILES]


def differences(found: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return how far files are from their model, beside the effect of rounding, by runtime."""
    return [f"{apart:.0e} of {effect:.0e}" for apart, effect in (found[name] for name in RUNTIMES)]


def processor(environment: Mapping[str, Any]) -> str:
    """Return cores and processor of a machine, and the instructions that decide about int8."""
    instructions = ", ".join(environment["cpu_instructions"])
    return f"{environment['logical_cores']} cores ({environment['cpu']}: {instructions})"


def machine(environment: Mapping[str, Any]) -> str:
    """Return the cores and the processor of a machine, and its version of Paddle."""
    version = environment["packages"].get("paddlepaddle", "?")
    return f"{processor(environment)}, Paddle {version}"


def measured_on(entry: Mapping[str, Any]) -> str:
    """Return the line below a table that says when and on which processor it was measured."""
    return f"Measured on {entry['date']}, {processor(entry['environment'])}."
