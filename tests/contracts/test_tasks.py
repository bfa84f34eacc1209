"""What every task promises to the core; a new folder in tasks/ is found and held to it.

The toy task of tests/plugins stands for one that a user keeps outside the project.
"""

from __future__ import annotations

import pkgutil
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import tasks
from core.distill.teacher import read_teacher
from core.export.package import export
from core.graph.cost import count_macs, count_parameters
from core.network.layers import match, tap
from core.network.weights import load_arrays
from core.prune.pruner import fixed_specs
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge, to_mapping
from core.strategy import KINDS
from core.targets.names import BACKENDS, DEFAULT_TARGET
from core.targets.presets import PRESETS
from core.task import Task, build_task
from core.training import checkpoint
from core.training.engine import Engine
from core.training.evaluation import eager_forward, evaluate, evaluate_model
from core.training.hooks import Checkpoints
from core.training.loader import Loader
from core.training.recipe import read_recipe
from core.training.run import Run, read_run
from tests.calling import call
from tests.device import DEVICE
from tests.networks.comparing import assert_same, graph_of
from tests.toy_runs import StopAfter

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
DEMOS = {
    entry.name: ROOT / "configs" / entry.name / "demo.yml"
    for entry in pkgutil.iter_modules(tasks.__path__)
} | {"outside": ROOT / "tests" / "plugins" / "outside" / "toy" / "demo.yml"}
SMALL = {
    "synthetic": {"train_images": 4, "val_images": 3},
    "train": {"epochs": 2, "batch_size": 2, "eval_batch_size": 2},
    "device": DEVICE,
}
LISTEN = "outside.strategies:Listen"


@dataclass
class Trained:
    """A task trained for two epochs on a little generated data, with a listener at work."""

    settings: dict[str, Any]
    run: Run
    engine: Engine
    save_dir: Path

    @property
    def task(self) -> Task:
        return self.run.task

    def batch(self, split: Any = "train") -> Any:
        loader = Loader(self.task.build_dataset(split), batch_size=4, train=split == "train")
        return next(iter(loader.epoch()))


def make_engine(
    settings: dict[str, Any],
    save_dir: Path,
    hooks: Any = (),
    steps: Any = ({"kind": LISTEN},),
    teachers: Any = (),
) -> Engine:
    run = read_run(settings)
    recipe = read_recipe({"strategies": list(steps)}, run.train.epochs, bool(teachers))
    return Engine(run, recipe, save_dir, [Checkpoints(), *hooks], teachers)


@pytest.fixture(scope="module", params=DEMOS, ids=DEMOS.keys())
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    settings = merge(load_yaml(DEMOS[request.param]), SMALL)
    settings = merge(settings, {"data": {"root": str(folder / "data"), "num_workers": 0}})
    engine = make_engine(settings, folder / "run")
    engine.train()
    return Trained(settings, read_run(settings), engine, folder / "run")


def test_it_is_a_task_and_its_settings_come_back_from_a_checkpoint(trained: Trained) -> None:
    assert isinstance(trained.task, Task)
    assert trained.task.name == trained.settings["task"]["name"]
    again = build_task(trained.task.name, to_mapping(trained.task.config))
    assert again.config == trained.task.config
    model, data = trained.task.config.model, trained.task.config.data
    assert {"name", "pretrained", "reinit"} <= set(vars(model))
    assert {"root", "num_workers", "on_error"} <= set(vars(data))


def test_batches_feed_the_model_and_every_parameter_gets_a_gradient(trained: Trained) -> None:
    model = trained.task.build_model()
    model.train()
    batch = trained.batch()
    inputs = [batch[spec.name] for spec in trained.task.input_spec()]
    outputs = trained.task.name_outputs(model(*inputs))
    losses = trained.task.losses(outputs, batch)
    assert all(loss.shape == [] for loss in losses.values())
    paddle.add_n(list(losses.values())).backward()
    dead = [n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert not dead


def test_a_training_set_varies_with_its_generator_only(trained: Trained) -> None:
    data = trained.task.build_dataset("train")
    draws = [data.sample(0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for name, value in draws[0].items():
        np.testing.assert_array_equal(value, draws[1][name])
    assert any((draws[0][name] != draws[2][name]).any() for name in draws[0])
    for split in ("val", "calibration"):
        fixed = trained.task.build_dataset(split)
        one, two = (fixed.sample(0, np.random.default_rng(seed)) for seed in (1, 2))
        for name, value in one.items():
            np.testing.assert_array_equal(value, two[name])


def test_calibration_sees_the_training_images_as_validation_would(
    trained: Trained, tmp_path: Path
) -> None:
    """Where the training files are the validation files, both splits give the same inputs."""
    task, rng = trained.task, np.random.default_rng(0)
    names = [spec.name for spec in task.input_spec()]
    assert len(task.build_dataset("calibration")) == len(task.build_dataset("train"))
    root = tmp_path / "data"
    shutil.copytree(trained.settings["data"]["root"], root)
    for path in list(root.rglob("*val*")):
        twin = path.with_name(path.name.replace("val", "train"))
        if path.is_dir():
            shutil.rmtree(twin)
            shutil.copytree(path, twin)
        else:
            shutil.copy(path, twin)
    settings = merge(to_mapping(task.config), {"data": {"root": str(root)}, "synthetic": None})
    moved = build_task(task.name, settings).build_dataset("calibration")
    wanted = task.build_dataset("val")
    assert len(moved) == len(wanted)
    for index in range(len(moved)):
        found, one = moved.sample(index, rng), wanted.sample(index, rng)
        for name in names:
            np.testing.assert_array_equal(found[name], one[name])


def test_merged_metrics_of_two_halves_are_the_metric_of_the_whole(trained: Trained) -> None:
    task, model = trained.task, trained.engine.model
    dataset = task.build_dataset("val")
    whole = evaluate_model(task, model, Loader(dataset, batch_size=1, train=False))
    model.eval()
    halves = [
        evaluate(
            task,
            eager_forward(task, model),
            Loader(dataset, batch_size=1, train=False, rank=rank, world=2),
        )
        for rank in range(2)
    ]
    merged = task.build_metric()
    merged.reset()
    merged.merge([half.state() for half in halves])
    assert merged.primary in merged.compute()
    assert merged.compute() == pytest.approx(whole.compute(), abs=1e-6)
    assert isinstance(merged.report(), str)


def test_hints_name_layers_that_exist(trained: Trained) -> None:
    model = trained.task.build_model()
    hints = trained.task.slim_hints(model)
    paths = [path for path, _ in model.named_sublayers()]
    for globs in (hints.never_prune, hints.never_quantize):
        if globs:
            assert match(globs, paths, "hints")
    assert hints.distill_points
    batch = trained.batch()
    with tap(model, [point.layer for point in hints.distill_points]) as caught:
        model(*[batch[spec.name] for spec in trained.task.input_spec()])
    assert all(isinstance(value, paddle.Tensor) for values in caught.values() for value in values)
    assert len(caught) == len({point.layer for point in hints.distill_points})


def test_a_checkpoint_alone_restores_the_model(trained: Trained) -> None:
    task, model = checkpoint.restore(trained.save_dir / "latest" / "model.pdparams")
    batch = {name: value.numpy() for name, value in trained.batch("val").items()}
    # but for what has data drawn or fetched, which is the user's to say
    assert task.config == replace(trained.task.config, synthetic=None)
    trained.engine.model.eval()
    ours = task.infer(eager_forward(task, model), batch)
    theirs = task.infer(eager_forward(task, trained.engine.model), batch)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


def test_resume_continues_exactly(trained: Trained, tmp_path: Path) -> None:
    make_engine(trained.settings, tmp_path, [StopAfter(1)]).train()
    make_engine(trained.settings, tmp_path).train(resume=True)
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        straight = load_arrays(trained.save_dir / "latest" / name)
        resumed = load_arrays(tmp_path / "latest" / name)
        assert_same(straight, resumed)


@pytest.mark.parametrize("kind", ["distill", "mutual"])
def test_students_learn_from_others_and_ship_alone(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    """Train, resume in the middle of the window, restore and export; the others stay behind."""
    settings = merge(trained.settings, {"train": {"epochs": 3}})
    teachers = [read_teacher(str(trained.save_dir / "latest"))] if kind == "distill" else ()
    options = {"steps": [{"kind": kind, "end_epoch": 2}], "teachers": teachers}
    straight = make_engine(settings, tmp_path / "straight", **options)
    straight.train()
    make_engine(settings, tmp_path / "halves", [StopAfter(1)], **options).train()
    make_engine(settings, tmp_path / "halves", **options).train(resume=True)
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        whole, resumed = (
            load_arrays(tmp_path / n / "latest" / name) for n in ("straight", "halves")
        )
        assert_same(whole, resumed)
    task, model = checkpoint.restore(tmp_path / "halves" / "latest")
    plain = task.build_model()
    assert model.state_dict().keys() == plain.state_dict().keys()
    export(task, model, tmp_path / "exported")
    export(task, plain, tmp_path / "plain")
    assert graph_of(tmp_path / "exported") == graph_of(tmp_path / "plain")
    if kind == "mutual":
        _, peer = checkpoint.restore(tmp_path / "halves" / "peer_1" / "latest")
        assert any(
            (peer.state_dict()[name] != value).any() for name, value in model.state_dict().items()
        )


@pytest.mark.parametrize("recipe", ["prune", "prune_sensitive", "prune_latency"])
def test_a_pruned_network_is_smaller_and_loads_alone(
    trained: Trained, tmp_path: Path, recipe: str
) -> None:
    """The recipes as they ship: train, resume, restore, export, and be a teacher."""
    steps = load_yaml(ROOT / "configs" / "slim" / f"{recipe}.yml")["strategies"]
    # large steps on eight pictures make networks that subtract large numbers from each other, and
    # then no runtime can agree with another
    changes = {"train": {"epochs": 3, "learning_rate": 1e-4}}
    settings = merge(trained.settings, changes | {"model": {"pretrained": None}})
    settings["model"]["pretrained"] = str(trained.save_dir / "latest")
    straight = make_engine(settings, tmp_path / "straight", steps=steps)
    straight.train()
    task, model = checkpoint.restore(tmp_path / "straight" / "latest")
    whole = trained.task.build_model()
    assert count_parameters(model) < count_parameters(whole)
    if recipe == "prune":
        specs = fixed_specs(task)
        shapes = [tuple(spec.shape) for spec in specs]
        before, after = (count_macs(each, shapes, specs) for each in (whole, model))
        assert 1 - after / before == pytest.approx(0.5, abs=0.02)
        make_engine(settings, tmp_path / "halves", [StopAfter(1)], steps=steps).train()
        make_engine(settings, tmp_path / "halves", steps=steps).train(resume=True)
        for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
            one, two = (load_arrays(tmp_path / n / "latest" / name) for n in ("straight", "halves"))
            assert_same(one, two)
        export(task, model, tmp_path / "exported", formats=("paddle", "onnx"))
        plain = tmp_path / "plain"
        export(trained.task, whole, plain)
        sizes = [(f / "model.pdiparams").stat().st_size for f in (tmp_path / "exported", plain)]
        assert sizes[0] < sizes[1]
        teachers = [read_teacher(str(tmp_path / "straight" / "latest"))]
        learn = merge(trained.settings, {"train": {"epochs": 1}})
        options = {"steps": [{"kind": "distill"}], "teachers": teachers}
        make_engine(learn, tmp_path / "taught", **options).train()


@pytest.mark.parametrize(
    ("recipe", "target"), [("distill_qat", "paddle"), ("distill_prune_qat", "onnxruntime")]
)
def test_a_student_learns_with_the_rounding_of_files(
    trained: Trained, tmp_path: Path, recipe: str, target: str
) -> None:
    """Distilled, pruned and quantized in one run, interrupted while all are at work.

    The network is pruned by two cuts while it learns, and the run is interrupted between them, too:
    what follows the layers that distillation looks at is cut with them. For ONNX Runtime outputs
    are rounded as well, for Paddle where its network has additions.
    """
    steps = load_yaml(ROOT / "configs" / "slim" / f"{recipe}.yml")["strategies"]
    pruned = "prune" in recipe
    for step in steps:
        step["start_epoch"] = 1 + pruned if step["kind"] == "qat" else 0
        if step["kind"] == "prune":
            step["num_steps"] = 2
        if step["kind"] == "qat":
            # channels that rounding makes constant in both images of a batch have no variance, and
            # gradients that a last bit makes overflow, so statistics of batches are of no use
            step |= {"calibration_samples": 8, "target": target, "freeze_bn_after": 0}
    train = {"epochs": 3 + pruned, "learning_rate": 0.005}
    changes = {"train": train, "model": {"pretrained": None}}
    settings = merge(trained.settings, changes)
    settings["model"]["pretrained"] = str(trained.save_dir / "latest")
    teachers = [read_teacher(str(trained.save_dir / "latest"))]
    options = {"steps": steps, "teachers": teachers}
    straight = make_engine(settings, tmp_path / "straight", **options)
    straight.train()
    for number, epochs in enumerate([1, 3] if pruned else [2]):
        make_engine(settings, tmp_path / "halves", [StopAfter(epochs)], **options).train(number > 0)
    make_engine(settings, tmp_path / "halves", **options).train(resume=True)
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        one, two = (load_arrays(tmp_path / n / "latest" / name) for n in ("straight", "halves"))
        assert_same(one, two)
    task, model = checkpoint.restore(tmp_path / "halves" / "latest")
    assert (count_parameters(model) < count_parameters(task.build_model())) == pruned
    assert len(quantized_layers(model)) > 1
    assert rounded_outputs(model).keys() == rounded_outputs(straight.model).keys()
    hinted = task.slim_hints(model).qat.quantize_outputs.get(target)
    assert bool(rounded_outputs(model)) == (hinted != "none") or target == "paddle"
    batch = {name: value.numpy() for name, value in trained.batch("val").items()}
    straight.model.eval()
    ours = task.infer(eager_forward(task, model), batch)
    theirs = task.infer(eager_forward(task, straight.model), batch)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
    layout = target if target in PRESETS else DEFAULT_TARGET
    made = export(task, model, tmp_path / "int8", ("paddle", "onnx"), target=layout)
    assert {each.runtime for each in made.differences} == set(BACKENDS)
    assert all(each.effect is not None for each in made.differences)
    if trained.task.name != "outside.toy":  # whose graph weighs more than its weights
        assert made.file_bytes["model.pdiparams"] < 0.4 * made.float_bytes["model.pdiparams"]


def test_weights_and_pictures_are_all_that_files_need(trained: Trained, tmp_path: Path) -> None:
    """Without the data of the training nothing is measured, and everything else is done."""
    (tmp_path / "pictures").mkdir()
    for path in [*Path(trained.settings["data"]["root"]).rglob("*train*/**/*.[jp][np]g")][:4]:
        shutil.copy(path, tmp_path / "pictures")
    words = ["--weights", trained.save_dir / "latest", "-o", "data.root=data"]
    words += ["--plugin", "outside.toy"] if trained.task.name == "outside.toy" else []
    calibrate = ("--images", "pictures", "--num_calib", 4, "--no_metric")
    for tool, *more in [
        ("ptq.py", *calibrate, "--save_dir", "ptq"),
        ("predict.py", "--image_path", "pictures", "--save_dir", "shown"),
    ]:
        status, said = call(tmp_path, tool, *words, *more)
        assert status == 0, said
    words[1] = tmp_path / "ptq" / "model"
    (tmp_path / "data").mkdir()
    quick = ("--no_latency", "--format", "paddle")
    status, said = call(tmp_path, "qat_export.py", *words, "--save_dir", "again", *quick)
    assert status == 0, said
    assert "nothing is measured" in said
    assert not list((tmp_path / "data").glob("*"))  # nothing is drawn only to be measured on


def test_the_export_measures_and_predicts_alone(trained: Trained, tmp_path: Path) -> None:
    task, model = checkpoint.restore(trained.save_dir / "latest")
    export(task, model, tmp_path / "exported", formats=("paddle", "onnx"))
    loader = Loader(task.build_dataset("val"), batch_size=1, train=False)
    eager = evaluate_model(task, model, loader)
    for backend in ("paddle", "onnxruntime", "openvino"):
        predictor = load_predictor(tmp_path / "exported", backend)
        described = predictor.description.task
        again = build_task(described.name, described.settings)
        exported = evaluate(again, predictor.run, loader)
        assert exported.compute() == pytest.approx(eager.compute(), abs=1e-3)
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    sample, info = task.preprocess(image)
    outputs = predictor.run(*[sample[spec.name][None] for spec in task.input_spec()])
    prediction = task.postprocess(outputs, info)
    drawn = task.draw(image, prediction)
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3


def test_the_recipes_use_exactly_the_strategies_of_the_core() -> None:
    recipes = [load_yaml(path) for path in (ROOT / "configs" / "slim").glob("*.yml")]
    kinds = {step["kind"] for recipe in recipes for step in recipe["strategies"]}
    assert kinds == set(KINDS)
