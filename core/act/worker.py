"""PaddleSlim at work; run as `python -m core.act.worker DESCRIPTOR` by `core.act.child`.

It has a process of its own because PaddleSlim's calls leave static mode on, replace functions of
`paddle.nn.functional` and write files into the working directory. It computes, and knows arrays and
names only: data, losses, updates and files are the other process's.

Of PaddleSlim's compression of exported models, `AutoCompression`, only the parts are called. As a
whole it writes over the file of the model that it is given, needs attributes of operators that
exported files do not have, cannot train without a teacher, and goes on after a loss that is not a
number (2.6.0 on Paddle 3.1.1).
"""

from __future__ import annotations

from core.settings.startup import load_paddle

import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import paddle
from paddle.base.unique_name import UniqueNameGenerator
from paddle.static import Executor, Program, Scope, program_guard, scope_guard
from paddleslim.common.recover_program import recover_inference_program
from paddleslim.quant import quant_aware, quant_post_static

from core.act.child import FLOAT
from core.act.programs import (
    Grids,
    OnGrids,
    activation_quantizers,
    clip_inputs,
    threshold_of,
    unclip,
    unclipped,
)
from core.graph.kernel_calls import kernels_take_variables
from core.task import Arrays

QUANTIZED = "quantized"
ENDLESS = 2**31  # batches: it is the reader that ends


class Worker:
    """A float program and its quantized selves, in static mode.

    Args:
        connection: Connection to the process that sends names of methods and their arguments.
    """

    def __init__(self, connection: Connection) -> None:
        paddle.enable_static()
        self._connection = connection
        self._place = paddle.framework._current_expected_place()
        self._executor = Executor(self._place)
        self._variants: list[Program] = []
        self._teacher, self._scope = Scope(), Scope()
        self._float, self._outputs = self._load(FLOAT, self._teacher)
        self._observing = self._training = Program()
        self._use(Program())

    def run_float(self, feeds: Arrays, names: Sequence[str] | None = None) -> Arrays:
        """Return variables of the float model, which never changes; its outputs by default."""
        return self._run(self._float, feeds, names or self._outputs, self._teacher)

    def run_quantized(self, feeds: Arrays, variant: int | None = None) -> Arrays:
        """Return the outputs of the quantized model on the grids as they are, or of a variant."""
        program = self._test if variant is None else self._variants[variant]
        return self._run(program, feeds, self._outputs, self._scope)

    def add_variant(self, grids: Grids) -> int:
        """Put a copy of the quantized model on other grids; return its number."""
        number = len(self._variants)
        made = OnGrids(self._test, grids, self._get, f"@variant{number}")
        for name, array in made.values.items():
            self._scope.var(name).get_tensor().set(array, self._place)
        self._variants.append(made.program)
        return number

    def quantize(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """Calibrate with `quant_post_static`; return the largest magnitudes by tensor."""
        with scope_guard(self._scope):
            quant_post_static(
                self._executor,
                model_dir=".",
                model_filename=f"{FLOAT}.pdmodel",
                params_filename=f"{FLOAT}.pdiparams",
                quantize_model_path=QUANTIZED,
                save_model_filename=f"{QUANTIZED}.pdmodel",
                save_params_filename=f"{QUANTIZED}.pdiparams",
                data_loader=self._batches,
                batch_nums=ENDLESS,
                scope=self._scope,
                onnx_format=False,  # True rounds outputs, too
                **settings,
            )
        self._use(self._load(f"{QUANTIZED}/{QUANTIZED}", self._scope)[0])
        return self.scales()

    def prepare(
        self,
        config: Mapping[str, Any],
        scales: Mapping[str, float],
        weights: Sequence[str],
        nodes: Sequence[str],
        pact: bool,
    ) -> list[str]:
        """Make the programs of quantization-aware training; return the weights that have gradients.

        One goes forward and moves the grids, one goes back on the grids that this left behind.

        Args:
            config: Settings of `quant_aware`.
            scales: Largest magnitude of each tensor, at which its grid starts.
            weights: Weights that may be trained.
            nodes: Variables that the loss reads.
            pact: Whether what layers read is clipped at thresholds, which are trained, too.
        """
        with scope_guard(self._scope):
            program, _ = self._load(FLOAT, self._scope)
            program = recover_inference_program(program, Program())
            block = program.global_block()
            while block.ops[0].type == "feed":  # the executor makes its own for what it is fed
                block._remove_op(0)
            for op in block.ops:
                # it says False; dropout and batch statistics are no part of an exported model
                op._set_attr("is_test", True)
            ends = clip_inputs(program, config["quantize_op_types"], scales) if pact else []
            forward = program.clone()
            trained = self._add_gradients(program, [*weights, *ends], nodes)
            shared = {"place": self._place, "scope": self._scope, "return_program": True}
            self._observing = quant_aware(forward, config=dict(config), **shared)
            fixed = {**config, "scale_trainable": False}
            self._training = quant_aware(program, config=fixed, **shared)
        test = self._observing.clone(for_test=True)
        unclip(test)
        self._use(test)
        if pact:
            for name, absmax in scales.items():
                self._scope.var(threshold_of(name))
                self._set(threshold_of(name), np.array([absmax], np.float32))
        self._begin_grids(scales, config["moving_rate"])
        return trained

    def observe(self, feeds: Arrays, names: Sequence[str]) -> Arrays:
        """Move the grids with a batch; return variables of the quantized model."""
        return self._run(self._observing, feeds, names, self._scope)

    def gradients(self, feeds: Arrays, cotangents: Arrays, weights: Sequence[str]) -> Arrays:
        """Return the gradients of a loss by weight, given its gradients by variable."""
        fed = {**feeds, **{_cotangent(name): array for name, array in cotangents.items()}}
        names = [f"{name}@GRAD" for name in weights]
        found = self._run(self._training, fed, names, self._scope)
        return {name: found[f"{name}@GRAD"] for name in weights}

    def load_weights(self, weights: Arrays) -> None:
        """Change weights, and the grids of weights with them."""
        for name, array in weights.items():
            self._set(name, array)
        for op in self._observing.global_block().ops:
            if op.type == "fake_channel_wise_quantize_abs_max":
                weight, axis = self._get(op.input("X")[0]), op.attr("quant_axis")
                others = tuple(a for a in range(weight.ndim) if a != axis)
                self._set(op.output("OutScale")[0], np.abs(weight).max(axis=others))

    def scales(self) -> dict[str, float]:
        """Return the largest magnitudes that the grids of activations hold, by tensor."""
        found = {}
        for op in activation_quantizers(self._test):
            (name,) = op.input("X")
            found[name] = float(self._get(op.input("InScale")[0]).reshape(-1)[0])
            if self._scope.find_var(threshold_of(name)) is not None:  # fell below what was seen
                found[name] = min(found[name], float(self._get(threshold_of(name))[0]))
        return found

    def load_scales(self, scales: Mapping[str, float]) -> None:
        """Change the grids of activations."""
        for op in activation_quantizers(self._test):
            self._set(op.input("InScale")[0], np.array([scales[op.input("X")[0]]], np.float32))

    def _use(self, test: Program) -> None:
        self._test, self._variants = test, []

    def _begin_grids(self, scales: Mapping[str, float], rate: float) -> None:
        """Put calibrated grids in the place of the 0.001 with which PaddleSlim begins."""
        self.load_scales(scales)
        for op in self._observing.global_block().ops:
            if op.type == "fake_quantize_range_abs_max":
                # as if it were the oldest batch of the window, which the last of the next replaces
                (window,) = op.output("OutScales")
                seen = np.zeros(op.attr("window_size"), np.float32)
                seen[-1] = scales[unclipped(op.input("X")[0])]
                self._set(window, seen)
            elif op.type == "fake_quantize_moving_average_abs_max":
                # of a moving average that has come to rest
                absmax, count = scales[unclipped(op.input("X")[0])], 1 / (1 - rate)
                self._set(op.input("InState")[0], np.array([count], np.float32))
                self._set(op.input("InAccum")[0], np.array([absmax * count], np.float32))
        self.load_weights({})

    def _add_gradients(
        self, program: Program, weights: Sequence[str], nodes: Sequence[str]
    ) -> list[str]:
        block = program.global_block()
        for name in weights:
            block.var(name).stop_gradient = False
        # a program that was loaded counts its names from 0, and meets those that it has
        program._name_generator = UniqueNameGenerator("trislim_")
        with program_guard(program, Program()):
            terms = []
            for name in nodes:
                value = block.var(name)
                given = paddle.static.data(_cotangent(name), value.shape, "float32")
                terms.append((value * given).sum())
            loss = paddle.add_n(terms)
            pairs = paddle.static.append_backward(loss, parameter_list=list(weights))
        return [weight.name for weight, gradient in pairs if gradient is not None]

    def _batches(self) -> Iterator[Arrays]:
        self._connection.send(("batches", None))
        while (batch := self._connection.recv()) is not None:
            yield batch

    def _load(self, stem: str, scope: Scope) -> tuple[Program, list[str]]:
        with scope_guard(scope):
            program, _, outputs = paddle.static.load_inference_model(stem, self._executor)
        return program, [variable.name for variable in outputs]

    def _run(self, program: Program, feeds: Arrays, names: Sequence[str], scope: Scope) -> Arrays:
        found = self._executor.run(program, feed=feeds, fetch_list=list(names), scope=scope)
        return dict(zip(names, found))

    def _get(self, name: str) -> np.ndarray:
        return np.array(self._scope.find_var(name).get_tensor())

    def _set(self, name: str, array: np.ndarray) -> None:
        self._scope.find_var(name).get_tensor().set(array, self._place)


def _cotangent(name: str) -> str:
    return f"{name}@cotangent"


def main(arguments: Sequence[str]) -> None:
    """Run the commands that come through the connection until its other end is closed."""
    load_paddle()
    connection = Connection(int(arguments[0]))
    with kernels_take_variables():  # for PaddleSlim's own code as well; this process does no more
        _work(connection)


def _work(connection: Connection) -> None:
    worker = Worker(connection)
    while True:
        try:
            command, given = connection.recv()
        except EOFError:
            return
        try:
            answer = getattr(worker, command)(*given)
        except Exception as error:
            # Paddle's own begin with the reason, behind a trace of C++
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            known = [line for line in lines if line.startswith("(") or "Error:" in line]
            reason = (known or lines or [""])[-1]
            connection.send(("failed", f"{type(error).__name__}: {reason}"))
            raise
        connection.send(("done", answer))


if __name__ == "__main__":
    main(sys.argv[1:])
