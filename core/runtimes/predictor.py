"""One face for an exported model, whichever runtime runs it: arrays in, named arrays out."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from paddle.base.proto import framework_pb2

from core.errors import ExportError
from core.graph.padding import damages_memory
from core.graph.program import Graph
from core.runtimes.description import DeployDescription, read_description
from core.runtimes.formats import check_present, choose_backend, find_files, is_installed
from core.runtimes.openvino_models import OpenVinoModel, name_of
from core.runtimes.ports import as_fed, check_shape, described, in_words, ports_in, with_sizes
from core.runtimes.survived import try_out_once
from core.runtimes.turns import TURNS
from core.settings.config import suggest
from core.settings.files import present
from core.targets.names import BACKENDS, Backend, Format
from core.task import Arrays

MOST_THREADS = 1024  # asked for tens of thousands, runtimes start them, and hardly come back

_BATCH_NORM_PASSES = (
    "conv_bn_fuse_pass",
    "conv_eltwiseadd_bn_fuse_pass",
    "conv_transpose_bn_fuse_pass",
    "conv_transpose_eltwiseadd_bn_fuse_pass",
    "conv_affine_channel_onednn_fuse_pass",
)
# Those that oneDNN computes in int8. Of Paddle's own list, `fc` rounds weights on wrong scales in
# 3.1.1, and `pool2d` and `concat` add errors and save no time.
_INT8_OPERATORS = frozenset({"conv2d", "depthwise_conv2d", "fused_conv2d"})
_log = logging.getLogger(__name__)


class Predictor(ABC):
    """An exported model, loaded and ready; threads may share it, and take turns.

    Paddle Inference does not survive two runs of a model at once, and OpenVINO mixes them up. For
    runs side by side give each thread a predictor of its own.

    Attributes:
        description: Content of `deploy.yml`, or what the graph itself tells where there is none.
        backend: Name of the runtime.
        folder: Folder that it was loaded from.
    """

    backend: Backend
    folder: Path

    def __init__(
        self, description: DeployDescription | None, inputs: list[str], outputs: list[str]
    ) -> None:
        if not outputs:
            raise ExportError("the model has no outputs")
        self._alone, self._process = threading.Lock(), os.getpid()
        self._called: dict[str, str] = {}  # outputs that are called otherwise than in the file
        self.description = description or described(inputs, outputs, {})
        self._inputs = [port.name for port in self.description.inputs]
        self._outputs = [port.name for port in self.description.outputs]
        if sorted(self._inputs) != sorted(inputs) or sorted(self._outputs) != sorted(outputs):
            raise ExportError(
                f"deploy.yml: the inputs {self._inputs} and outputs {self._outputs} are not those "
                f"of the model: {inputs} and {outputs}"
            )

    def run(self, *arrays: np.ndarray) -> Arrays:
        """Run the model on a batch.

        Args:
            *arrays: An array [N, ...] for each input, in the order of `description.inputs`.

        Raises:
            ExportError: Not as many arrays as inputs, or of shapes or types that do not fit, or
                empty ones, which would end the process in Paddle Inference; or the runtime fails.
        """
        ports = self.description.inputs
        if len(arrays) != len(ports):
            raise ExportError(f"inputs: expected {len(ports)} arrays, got {len(arrays)}")
        for port, array in zip(ports, arrays):
            check_shape(port, array.shape)
        fed = {port.name: as_fed(port, array) for port, array in zip(ports, arrays)}
        if os.getpid() != self._process:  # forked, perhaps while another thread held the lock
            self._alone, self._process = threading.Lock(), os.getpid()
        with self._alone:
            try:
                found = self._run(fed)
            except Exception as error:  # each runtime has exceptions of its own
                raise ExportError(f"{self.backend} cannot run the model: {_said(error)}") from error
        for name in self._outputs:
            if not isinstance(found[name], np.ndarray):
                raise ExportError(f"output {name}: expected a tensor, got a sequence or a map")
        return {self._called.get(name, name): found[name] for name in self._outputs}

    def answer_with(self, output: str, name: str) -> None:
        """Answer with one output alone, and call it what the task calls it.

        Args:
            output: In the file.
            name: For `run`, and in the description.

        Raises:
            ExportError: There is no such output.
        """
        ports = {port.name: port for port in self.description.outputs}
        if output not in ports:
            raise ExportError(
                f"--output: {self.folder} has no output {output!r}: {in_words(ports.values())}"
            )
        self._outputs, self._called = [output], {output: name}
        self.description = replace(self.description, outputs=(replace(ports[output], name=name),))

    @abstractmethod
    def _run(self, feeds: Arrays) -> Arrays: ...


def load_predictor(
    model_dir: str | Path,
    backend: Backend | None = None,
    threads: int = 1,
    own: bool = False,
) -> Predictor:
    """Load an exported model from its folder.

    A damaged program can end the process that a runtime opens it in. So it is opened and run in a
    process of its own first, unless it was before (`core.runtimes.survived`).

    Args:
        model_dir: Folder with `model.pdmodel` and `model.pdiparams`, or Paddle's other names for
            them (`inference.json` of Paddle 3), or `model.onnx`, or `model.xml` and `model.bin`;
            and perhaps `deploy.yml`. Or a file: `.onnx`, `.pdmodel`, `.json` or `.xml`.
        backend: `paddle` reads Paddle's files, `onnxruntime` reads ONNX, `openvino` its own files,
            or else ONNX. None: the first of them that is installed and reads a file of the folder.
        threads: CPU threads of one run.
        own: This process has just written the files, so they need no trial.

    Raises:
        ExportError: No such folder, no file that the backend reads, a broken file, or a backend
            that is not installed.
    """
    folder = present(Path(model_dir))
    _check_call(folder, backend, threads)
    if backend is None:
        backend = choose_backend(folder)
        _log.info("%s: runs in %s", folder, backend)
    if not is_installed(backend):
        raise ExportError(f"{backend}: not installed; run: pip install {backend}")
    files = find_files(folder, backend)
    description = read_description(folder)
    if not own:
        try_out_once(folder, backend, files)
    try:
        with TURNS.alone():
            predictor = _open(backend, files, description, threads)
        predictor.folder = folder
        if description is None:
            predictor.description = with_sizes(predictor.description, ports_in(files[0]))
        return predictor
    except ExportError as error:
        raise ExportError(f"{folder}: {error}") from error
    except Exception as error:  # each runtime has exceptions of its own, some bare RuntimeError
        raise ExportError(f"{files[0]}: {backend} cannot load it: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return the last line of what a runtime says of an error, where the cause stands."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def _check_call(folder: Path, backend: Backend | None, threads: int) -> None:
    if backend is not None and backend not in BACKENDS:
        raise ExportError(f"backend: no backend {backend!r}{suggest(backend, BACKENDS)}")
    if threads < 1:
        raise ExportError(f"threads: expected 1 or more, got {threads}")
    if threads > MOST_THREADS:
        raise ExportError(f"threads: expected {MOST_THREADS} at most, got {threads}")
    try:
        os.path.realpath(folder).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(folder)
        raise ExportError(f"{name!r}: the path is no UTF-8, as runtimes expect") from error
    check_present(folder)


def _open(
    backend: Backend, files: tuple[Path, ...], description: DeployDescription | None, threads: int
) -> Predictor:
    if backend == "paddle":
        return _Paddle(files, description, threads)
    if backend == "onnxruntime":
        return _OnnxRuntime(files[0], description, threads)
    return _OpenVino(files[0], description, threads)


def load_as_written(folder: Path, kind: Format) -> Predictor:
    """Load an exported model so that each operator is computed by itself, without int8 kernels.

    That is what the file says, on any processor; it is slow.

    Args:
        folder: Folder of the exported model.
        kind: `paddle` or `onnx`.
    """
    description = read_description(folder)
    if kind == "paddle":
        return _PlainProgram(find_files(folder, "paddle"), description)
    (file,) = find_files(folder, "onnxruntime")
    return _OnnxRuntime(file, description, 1, optimized=False)


def openvino_settings(threads: int) -> dict[str, str | int]:
    """Return the settings for one image at a time on so many threads, computed in float32.

    On CPUs with bfloat16 OpenVINO would choose that: errors of a tenth of the largest output.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }


class _Paddle(Predictor):
    backend: Backend = "paddle"

    def __init__(
        self, files: tuple[Path, ...], description: DeployDescription | None, threads: int
    ) -> None:
        inference = importlib.import_module("paddle.inference")
        config = inference.Config(*(str(file) for file in files))
        config.disable_glog_info()
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        operators = _operators(files[0])
        kinds = {op.type for op in operators}
        if "quantize_linear" in kinds:
            config.enable_mkldnn()
            config.enable_mkldnn_int8(set(_INT8_OPERATORS))
        elif any(damages_memory(op) for op in operators):  # files of other tools
            config.disable_mkldnn()
        if kinds and "batch_norm" not in kinds:
            # looking for them in vain takes two thirds of the time to load Lite-HRNet-30, 11 s
            for name in _BATCH_NORM_PASSES:
                config.delete_pass(name)
        self._loud = files[0].suffix == ".json"  # PIR: on loading, and when it runs first
        with _muted() if self._loud or "quantize_linear" in kinds else contextlib.nullcontext():
            self._predictor: Any = inference.create_predictor(config)
        names = self._predictor.get_input_names(), self._predictor.get_output_names()
        super().__init__(description, *names)

    def _run(self, feeds: Arrays) -> Arrays:
        if self._loud:
            with TURNS.alone(), _muted():
                answers = self._answers(feeds)
            self._loud = False
            return answers
        with TURNS.running():
            return self._answers(feeds)

    def _answers(self, feeds: Arrays) -> Arrays:
        for name, array in feeds.items():
            self._predictor.get_input_handle(name).copy_from_cpu(array)
        self._predictor.run()
        return {
            name: self._predictor.get_output_handle(name).copy_to_cpu() for name in self._outputs
        }


class _PlainProgram(Predictor):
    """A program run by Paddle's executor, which knows quantization as operators like others."""

    backend: Backend = "paddle"

    def __init__(self, files: tuple[Path, ...], description: DeployDescription | None) -> None:
        self._graph = Graph.from_files(files[0], files[1])
        super().__init__(description, self._graph.inputs, self._graph.outputs)

    def _run(self, feeds: Arrays) -> Arrays:
        place, scope = paddle.CPUPlace(), paddle.static.Scope()
        with paddle.pir_utils.OldIrGuard(), paddle.static.scope_guard(scope):
            program = paddle.static.Program.parse_from_string(self._graph.to_program())
            for name, value in self._graph.weights.items():
                scope.var(name).get_tensor().set(value, place)
            values = paddle.static.Executor(place).run(program, feeds, self._outputs)
        return dict(zip(self._outputs, values))


class _OnnxRuntime(Predictor):
    backend: Backend = "onnxruntime"

    def __init__(
        self,
        file: Path,
        description: DeployDescription | None,
        threads: int,
        optimized: bool = True,
    ) -> None:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        if not optimized:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = runtime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        names = (
            [each.name for each in self._session.get_inputs()],
            [each.name for each in self._session.get_outputs()],
        )
        super().__init__(description, *names)

    def _run(self, feeds: Arrays) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds)))


class _OpenVino(Predictor):
    backend: Backend = "openvino"

    def __init__(self, file: Path, description: DeployDescription | None, threads: int) -> None:
        self._model = OpenVinoModel(file, openvino_settings(threads))
        compiled = self._model.compiled
        ports = (*description.inputs, *description.outputs) if description else ()
        known = [port.name for port in ports] if description else list(ports_in(file))
        names = (
            [name_of(each, known) for each in compiled.inputs],
            [name_of(each, known) for each in compiled.outputs],
        )
        super().__init__(description, *names)

    def _run(self, feeds: Arrays) -> Arrays:
        results = self._model.fitting(feeds)(feeds)
        return {name: np.array(results[name]) for name in self._outputs}


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Throw away what C++ code writes to the terminal inside: Paddle lists its passes there.

    There is no setting for it. Errors come as exceptions and are not lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    with open(os.devnull, "wb") as nowhere:
        try:
            for stream, _ in kept:
                os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)


def _operators(file: Path) -> list[Any]:
    """Return the operators of a program; none if it is not one of the old IR."""
    program = framework_pb2.ProgramDesc()
    if file.suffix == ".json":
        return []
    try:
        program.ParseFromString(file.read_bytes())
    except DecodeError:
        return []
    return [op for block in program.blocks for op in block.ops]
