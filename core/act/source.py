"""An exported float model to compress: its layers, and the files that PaddleSlim reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle.base.proto import framework_pb2

from core.act.child import FLOAT
from core.errors import ConfigError, ExportError
from core.export.int8.weights import transposed_axis
from core.export.traced_model import ports_of
from core.graph.batch_norm_folding import COPY, fold_batch_norms
from core.graph.linear_layers import layers_of
from core.graph.operators import attribute, names_of, only, operator, variable
from core.graph.padding import pad_last_axes
from core.graph.program import Graph
from core.network.layers import match
from core.quant.scales import Grid, LayerScales
from core.runtimes.description import DeployDescription, Port, read_description
from core.runtimes.foreign import main_output_name
from core.runtimes.formats import find_files, is_model_file
from core.runtimes.ports import in_words
from core.settings.config import suggest
from core.settings.files import present
from core.task import Task

EXPORT_FIRST = (
    "export the float model first: tools/export_model.py --weights CHECKPOINT --save_dir FOLDER"
)
SKIP = "skip_quant"  # name scope that PaddleSlim leaves in float
# behind which values are never negative, whatever goes in
_POSITIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "square", "exp", "abs")
# which are not negative if nothing that they read is
_KEEPING = (
    *("concat", "reshape2", "transpose2", "flatten_contiguous_range", "squeeze2", "unsqueeze2"),
    *("pool2d", "slice", "split", "nearest_interp_v2", "bilinear_interp_v2", "dropout", "assign"),
    *("elementwise_add", "elementwise_mul", "elementwise_max", "reduce_mean", "pad3d"),
)
# that only say in other words what they read: no place to compare a student with its teacher
_SCORES = ("softmax", "sigmoid")
_CLOSING = (
    *(*_SCORES, "log_softmax", "arg_max", "cast", "scale", "assign", "squeeze2"),
    *("reshape2", "transpose2"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A layer that can be quantized: its input, its weight, its operator."""

    tensor: str
    weight: str
    op: Any

    @property
    def layer(self) -> str:
        """Return the name that users know it by: its weight's without the ending."""
        name = COPY.sub("", self.weight)
        return name.rpartition(".")[0] or name


@dataclass(frozen=True)
class Source:
    """A float model.

    Attributes:
        folder: Folder of the model.
        files: Program and parameters.
        graph: Batch norms folded.
        description: Content of its `deploy.yml`; None if it has none.
    """

    folder: Path
    files: tuple[Path, ...]
    graph: Graph
    description: DeployDescription | None

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Return the inputs with their sizes."""
        return ports_of(self.graph, self.graph.inputs)

    def name_outputs(self, task: Task, output: str | None = None) -> None:
        """Call the output of a model from elsewhere that answers what its task calls it.

        Args:
            task: Its task.
            output: Its name, where there are several: the others are dropped.

        Raises:
            ConfigError: There is no such output.
        """
        if output is not None:
            if output not in self.graph.outputs:
                known = in_words(ports_of(self.graph, self.graph.outputs))
                raise ConfigError(f"--output: {self.folder} has no output {output!r}: {known}")
            self.graph.outputs[:] = [output]
            self.graph.drop_unused()
        if output is not None or (self.description is None and len(self.graph.outputs) == 1):
            self.graph.name_outputs([main_output_name(task)])

    def choose(
        self, kinds: Sequence[str], never: Sequence[str], per_channel: bool, key: str
    ) -> list[Place]:
        """Return the layers to quantize, in the order they run.

        Args:
            kinds: Types of operators.
            never: Globs on layers that stay in float.
            per_channel: Whether each output channel has a grid.
            key: The setting that `never` comes from.

        Raises:
            ConfigError: A glob matches nothing, or nothing is left.
        """
        places = [Place(tensor, weight, op) for op, tensor, weight in layers_of(self.graph)]
        names = list(dict.fromkeys(place.layer for place in places))
        kept = set(match(never, names, key))
        chosen = []
        for place in places:
            reason = _reason_for_float(place, kinds, kept, per_channel, self.graph)
            if reason:
                _log.info("%s stays in float: %s", place.layer, reason)
            else:
                chosen.append(place)
        if not chosen:
            where = f"{key}: " if kept else ""
            raise ConfigError(f"{where}no layer of {self.folder} is left to quantize")
        return chosen

    def table(
        self, places: Sequence[Place], scales: dict[str, float], per_channel: bool
    ) -> list[LayerScales]:
        """Return the table of scales that int8 files are written from.

        Args:
            places: The layers.
            scales: Largest magnitudes by tensor.
            per_channel: Whether each output channel of a weight has a grid.

        Raises:
            ExportError: PaddleSlim found no grid for a layer.
        """
        positive, entries = never_negative(self.graph), {}
        for place in places:
            absmax = scales.get(place.tensor, 0.0)
            if not 0 < absmax < float("inf"):
                raise ExportError(
                    f"{place.layer}: expected a grid for its input {place.tensor!r}, got "
                    f"{absmax}; leave it in float, or calibrate on other images"
                )
            grid = Grid(absmax, signed=place.tensor not in positive)
            entries[place.weight] = LayerScales(place.weight, grid, per_channel=per_channel)
        return list(entries.values())

    def fill(self, folder: Path, places: Sequence[Place]) -> None:
        """Write what the worker begins with; operators of other layers are marked to be left.

        Where PaddleSlim calibrates, it gives the output of a layer another name, and leaves the old
        one to the steps. So outputs, and inputs of other layers, are copies.
        """
        chosen = {id(place.op) for place in places}
        asked_for = {*self.graph.outputs, *(place.tensor for place in places)}
        graph = replace(self.graph, operators=[], variables=dict(self.graph.variables))
        for original in self.graph.operators:
            op = _for_training(original, id(original) in chosen)
            graph.operators.append(op)
            if id(original) in chosen and not asked_for.isdisjoint(names_of(op.outputs)):
                graph.operators.append(_copy_of_output(op, graph))
        program = framework_pb2.ProgramDesc()
        program.ParseFromString(graph.to_program())
        for op in program.blocks[0].ops:
            _add_role(op)
        graph.write(folder / f"{FLOAT}.pdmodel", folder / f"{FLOAT}.pdiparams")
        (folder / f"{FLOAT}.pdmodel").write_bytes(program.SerializeToString())

    def nodes(self) -> list[str]:
        """Return the tensors to compare with a teacher by default: those outputs are made of."""
        return list(dict.fromkeys(self.before_closing(name) for name in self.graph.outputs))

    def before_closing(self, name: str) -> str:
        """Return the variable that one is made of by nothing but softmax, argmax and the like."""
        makers = {each: op for op in self.graph.operators for each in names_of(op.outputs)}

        def closes(name: str) -> bool:
            if name not in makers:
                return False
            op = makers[name]
            if op.type == "reduce_max":  # the score of the best class, or a pooling of features
                source = only(op.inputs, "X")
                return source in makers and makers[source].type in _SCORES
            return op.type in _CLOSING

        while closes(name):
            name = only(makers[name].inputs, "X")
        return name

    def check_node(self, name: str, key: str) -> None:
        """Refuse a name that is no variable of the model.

        Raises:
            ConfigError: Suggests the nearest one.
        """
        known = [each for op in self.graph.operators for each in names_of(op.outputs)]
        if name not in known:
            near = suggest(name, known) if len(known) < 20 else suggest(name, known)[:400]
            raise ConfigError(f"{key}: the model has no variable {name!r}{near}")


def open_source(
    model_dir: str | Path,
    model_filename: str | None = None,
    params_filename: str | None = None,
) -> Source:
    """Read an exported float model.

    Args:
        model_dir: Its folder.
        model_filename: Name of the program; None finds one of the usual names.
        params_filename: Name of the weights file.

    Raises:
        ExportError: None is there, or it is quantized already.
    """
    folder = present(Path(model_dir))
    if is_model_file(folder) and folder.suffix in (".onnx", ".xml"):
        kind = "ONNX" if folder.suffix == ".onnx" else "a file of OpenVINO"
        raise ExportError(
            f"{folder}: {kind}, which eval, predict and benchmark read; ptq and act need Paddle's "
            "files: a folder with .pdmodel and .pdiparams"
        )
    if is_model_file(folder) and folder.suffix == ".json":
        raise _of_new_ir(folder)
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder of an exported model; {EXPORT_FIRST}")
    weights = [*folder.glob("*.pdparams"), *folder.glob("*.safetensors")]
    if weights and not any(folder.glob("*.pdiparams")):
        raise ExportError(f"{folder}: holds a checkpoint, no exported model; {EXPORT_FIRST}")
    files = _files(folder, model_filename, params_filename)
    if files[0].suffix == ".json":
        raise _of_new_ir(files[0])
    graph = pad_last_axes(Graph.from_files(*files))
    rounding = next((op.type for op in graph.operators if "quantize" in op.type), None)
    if rounding:
        raise ExportError(f"{folder}: is quantized already ({rounding}); give the float model")
    for name, ports in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if not ports:
            raise ExportError(f"{files[0]}: has no {name}")
    graph.check_finite()
    try:
        folded = fold_batch_norms(graph)
    except (LookupError, TypeError, ValueError) as error:
        raise ExportError(
            f"{files[0]}: a batch norm in it has no weights that fit: {error}"
        ) from error
    graph.check_finite()
    _log.info("%s: %d operators, folded %d batch norms", folder, len(graph.operators), folded)
    return Source(folder, files, graph, read_description(folder))


def never_negative(graph: Graph) -> set[str]:
    """Return the variables that cannot hold values below zero, whatever the inputs are."""
    found = {name for name, weight in graph.weights.items() if weight.min(initial=0) >= 0}
    for op in graph.operators:
        read = [n for slot in op.inputs if slot.parameter in ("X", "Y") for n in slot.arguments]
        if op.type in _POSITIVE or (op.type in _KEEPING and found.issuperset(read)):
            found.update(names_of(op.outputs))
    return found


def _of_new_ir(file: Path) -> ExportError:
    return ExportError(
        f"{file}: a program of Paddle 3's new IR, which eval, predict and benchmark read; ptq and "
        "act need .pdmodel: export it again under Paddle 3.1 (pip install paddlepaddle==3.1.1) "
        "with FLAGS_enable_pir_api=0 in the environment"
    )


def _files(folder: Path, model: str | None, params: str | None) -> tuple[Path, ...]:
    if model is None and params is None:
        return find_files(folder, "paddle")
    if model is None or params is None:
        missing = "model_filename" if model is None else "params_filename"
        raise ConfigError(f"{missing}: required beside the other one, but not given")
    for key, name in (("model_filename", model), ("params_filename", params)):
        if not (folder / name).is_file():
            known = [path.name for path in folder.iterdir() if path.is_file()]
            raise ConfigError(f"{key}: {folder} holds no {name!r}{suggest(name, known)}")
    return folder / model, folder / params


def _reason_for_float(
    place: Place, kinds: Sequence[str], kept: set[str], per_channel: bool, graph: Graph
) -> str:
    if place.op.type not in kinds:
        return f"{place.op.type} is not to be quantized"
    if place.layer in kept:
        return "asked for"
    if per_channel and place.op.type == "conv2d_transpose":
        try:
            transposed_axis(place.layer, graph.shape(place.weight), attribute(place.op, "groups"))
        except ExportError as error:
            return str(error)
    return ""


def _for_training(original: Any, chosen: bool) -> Any:
    """Return an operator as PaddleSlim needs it: marked, and without dropout's mask."""
    op = framework_pb2.OpDesc()
    op.CopyFrom(original)
    if op.type == "dropout":
        upscaled = attribute(op, "dropout_implementation", "") == "upscale_in_train"
        factor = 1.0 if upscaled else 1.0 - attribute(op, "dropout_prob", 0.5)
        ends = {"X": only(op.inputs, "X")}, {"Out": only(op.outputs, "Out")}
        op = _scale(*ends, factor)
    if not chosen:
        op.attrs.add(name="op_namescope", type=framework_pb2.AttrType.STRING, s=f"/{SKIP}/")
    return op


def _copy_of_output(op: Any, graph: Graph) -> Any:
    """Give an operator's output a new name; return an operator that copies it to the old name."""
    (out,) = names_of(op.outputs)
    made = f"{out}@made"
    graph.variables[made] = variable(made, graph.shape(out), graph.dtype(out))
    for slot in op.outputs:
        slot.arguments[:] = [made for _ in slot.arguments]
    return _scale({"X": made}, {"Out": out}, 1.0)


def _scale(inputs: dict[str, str], outputs: dict[str, str], factor: float) -> Any:
    attributes = {"scale": factor, "bias": 0.0, "bias_after_scale": True}
    return operator("scale", inputs, outputs, attributes)


def _add_role(op: Any) -> None:
    """Give an operator the attributes that exported files leave out and Paddle's passes require."""
    kinds = framework_pb2.AttrType
    known = {each.name for each in op.attrs}
    if "op_namescope" not in known:
        op.attrs.add(name="op_namescope", type=kinds.STRING, s="/")
    op.attrs.add(name="op_role", type=kinds.INT, i=0)
    op.attrs.add(name="op_role_var", type=kinds.STRINGS)
    op.attrs.add(name="op_device", type=kinds.STRING, s="")
