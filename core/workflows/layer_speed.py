"""Find the layers that int8 makes faster, in whole files and in the runtime that will run them.

The gain of a layer in int8 depends on its neighbours: rounding costs time somewhere, and kernels
are fused with adjacent operators. Therefore a group of similar layers is switched between float and
int8 within the whole network, and stays where the network is faster. A group consists of layers of
one kind on maps of one size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import paddle
from paddle import nn
from paddle.nn import Layer
from rich.table import Table

from core.errors import ConfigError
from core.export.int8.exporter import Int8Exporter
from core.export.parity import real_batches
from core.graph.batch_norm_folding import trace_folded
from core.network.modes import evaluation_mode
from core.quant.quantizers import ActivationQuantizer
from core.quant.sites import sites_of
from core.runtimes.formats import format_of, is_installed
from core.runtimes.latency_table import clock_for, shortest_ms
from core.runtimes.predictor import load_predictor
from core.settings.files import scratch
from core.settings.progress import progress
from core.targets.names import BACKENDS, DEFAULT_TARGET, Backend
from core.targets.presets import PRESETS
from core.task import Arrays, Task

MARGIN = 0.01  # share of the time that a change must save; less is noise
RUNS, SECONDS = 20, 0.5  # least number of runs of both files, and least time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One group put into float, or back into int8, and what the network then took.

    Attributes:
        group: Kind of layer and size of its output.
        layers: Number of layers in the group.
        to_int8: Whether it went into int8; otherwise into float.
        before_ms: Time of the network before the change, measured in turns with `after_ms`.
        after_ms: Time of the network after the change.
    """

    group: str
    layers: int
    to_int8: bool
    before_ms: float
    after_ms: float

    @property
    def pays(self) -> bool:
        """Return whether the change is worth it."""
        return self.after_ms < (1 - MARGIN) * self.before_ms


@dataclass(frozen=True)
class Speed:
    """Speed of a network in float, in int8, and with the layers in int8 that pay.

    Attributes:
        backend: Runtime.
        float_ms: Time of the float file; of all three, the shortest of runs taken in turns.
        int8_ms: Time of the file with all layers in int8.
        chosen_ms: Time of the file with the layers in int8 that pay.
        slow: Paths of the layers that int8 makes no faster.
        trials: Trials in the order in which they were made.
    """

    backend: Backend
    float_ms: float
    int8_ms: float
    chosen_ms: float
    slow: tuple[str, ...]
    trials: tuple[Trial, ...]

    def table(self) -> Table:
        """List the trials."""
        title = (
            f"{self.backend}: {self.float_ms:.2f} ms in float, {self.int8_ms:.2f} in int8, "
            f"{self.chosen_ms:.2f} with what pays in int8"
        )
        table = Table(title=title)
        for column in ("group", "layers", "tried in", "ms before", "ms then", "kept in"):
            table.add_column(column, justify="right" if "ms" in column else "left")
        for trial in self.trials:
            tried, other = ("int8", "float") if trial.to_int8 else ("float", "int8")
            numbers = f"{trial.before_ms:.2f}", f"{trial.after_ms:.2f}"
            kept = tried if trial.pays else other
            table.add_row(trial.group, str(trial.layers), tried, *numbers, kept)
        return table


def backend_of(target: str) -> Backend:
    """Return the runtime here that a target's files are for.

    Raises:
        ConfigError: It does not run on this machine.
    """
    backend = next((each for each in BACKENDS if each == target), None)
    if backend is None or not is_installed(backend):
        known = ", ".join(each for each in BACKENDS if is_installed(each))
        raise ConfigError(f"speed_control: {target} cannot be measured here; targets: {known}")
    return backend


def measure_speed(task: Task, model: Layer, target: str) -> Speed:
    """Find the layers whose int8 form makes the network slower, or no faster.

    Begins with the faster of all in int8 and all in float, and changes one group after the other.

    Args:
        task: Task of the model.
        model: Quantized; left as it is.
        target: `paddle`, `onnxruntime` or `openvino`, which also runs it.

    Raises:
        ConfigError: The target does not run here.
        ExportError: The model cannot be exported.
    """
    backend, groups = backend_of(target), groups_of(task, model)
    everything = frozenset(sites_of(model))
    trials: list[Trial] = []
    with _timer(task, model, backend) as time_ms:
        float_ms, int8_ms = time_ms([frozenset(), everything])
        chosen = everything if int8_ms <= float_ms else frozenset()
        for name, members in progress(groups.items(), "speed of layers"):
            to_int8 = not members <= chosen
            other = chosen | members if to_int8 else chosen - members
            trial = Trial(name, len(members), to_int8, *time_ms([chosen, other]))
            if trial.pays:  # once may be chance
                trial = Trial(name, len(members), to_int8, *time_ms([chosen, other]))
            trials.append(trial)
            chosen = other if trial.pays else chosen
        float_ms, int8_ms, chosen_ms = time_ms([frozenset(), everything, chosen])
    slow = tuple(path for path in sites_of(model) if path not in chosen)
    return Speed(backend, float_ms, int8_ms, chosen_ms, slow, tuple(trials))


SitesInInt8 = frozenset[str]


@contextmanager
def _timer(
    task: Task, model: Layer, backend: Backend
) -> Iterator[Callable[[list[SitesInInt8]], list[float]]]:
    """Yield a function that measures files with some sites in int8, in turns, in milliseconds."""
    layer, specs = task.deploy_model(model, "raw"), task.input_spec()
    formats = [format_of(backend)]
    preset = backend if backend in PRESETS else DEFAULT_TARGET
    inputs = [array[:1] for array in real_batches(task, specs)[0]]
    loaded: dict[SitesInInt8, Callable[[], Arrays]] = {}
    with (
        evaluation_mode(model),
        evaluation_mode(layer),
        scratch() as place,
    ):
        exporter = Int8Exporter(model, layer, trace_folded(layer, specs, model), preset)
        whole = place / "float"
        whole.mkdir()
        exporter.write_float(whole, formats)

        def load(choice: SitesInInt8) -> Callable[[], Arrays]:
            folder = whole
            if choice:
                # a new one each time: a runtime may hold its files open
                folder = place / str(len(list(place.iterdir())))
                folder.mkdir()
                exporter.write_some(folder, formats, whole, choice)
            return partial(load_predictor(folder, backend, own=True).run, *inputs)

        def time_ms(choices: list[SitesInInt8]) -> list[float]:
            for choice in loaded.keys() - set(choices):
                del loaded[choice]
            for choice in choices:
                loaded[choice] = loaded.get(choice) or load(choice)
            runs = [loaded[choice] for choice in choices]
            return shortest_ms(runs, clock_for(threads=1), RUNS, SECONDS)

        yield time_ms


def groups_of(task: Task, model: Layer) -> dict[str, SitesInInt8]:
    """Return the quantized layers that are alike: of one kind, with outputs of one size.

    Args:
        task: Task of the model.
        model: Quantized.
    """
    names, hooks = {}, []
    paths = sites_of(model)
    for path, site in paths.items():

        def note(layer: Layer, _inputs: object, output: paddle.Tensor, path: str = path) -> None:
            size = "x".join(map(str, output.shape[2:])) or "vectors"
            names[path] = f"{_kind(layer)} {size}"

        hooks.append(site.register_forward_post_hook(note))
    try:
        inputs = real_batches(task, task.input_spec())[0]
        with evaluation_mode(model), paddle.no_grad():
            model(*[paddle.to_tensor(array[:1]) for array in inputs])
    finally:
        for hook in hooks:
            hook.remove()
    groups: dict[str, set[str]] = {}
    for path in paths:
        groups.setdefault(names.get(path, "does not run"), set()).add(path)
    return {name: frozenset(members) for name, members in groups.items()}


def _kind(layer: Layer) -> str:
    if isinstance(layer, ActivationQuantizer):
        return "outputs"
    if isinstance(layer, nn.Linear):
        return "linear"
    kernel = "x".join(map(str, layer.weight.shape[2:]))
    if isinstance(layer, nn.Conv2DTranspose):
        return f"transposed {kernel}"
    if layer._groups == 1:
        return f"convolution {kernel}"
    return f"{'depthwise' if layer._groups == layer._in_channels else 'grouped'} {kernel}"
