"""Train a settled run, or list what it would do; shared by tools and scripts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
import yaml

from core.dialects.origins import told_by
from core.errors import ConfigError, FileError
from core.settings.acceptance import FileFigures
from core.settings.download import is_url
from core.settings.files import write_text
from core.training.checkpoint import DESCRIPTION, WEIGHTS, load_description
from core.training.distributed import initialize
from core.training.engine import Engine
from core.training.hooks import Hook
from core.training.recipe import Recipe
from core.training.run import Run
from core.training.save_folder import check_free
from core.training.standard_hooks import standard_hooks
from core.workflows.exports_on_the_way import ExportsOnTheWay, check_exports
from core.workflows.rehearsal import Stretch, rehearse
from core.workflows.run_plan import RunPlan, settle


@dataclass(frozen=True)
class PreparedRun:
    """A run with where it goes.

    Attributes:
        plan: In our own words.
        run: Run of the plan.
        recipe: Recipe of the plan.
        save_dir: For checkpoints and logs.
        use_vdl: Whether VisualDL scalars are written.
        use_tensorboard: Whether scalars for TensorBoard are written.
    """

    plan: RunPlan
    run: Run
    recipe: Recipe
    save_dir: Path
    use_vdl: bool = False
    use_tensorboard: bool = False

    def rehearse(self, resume: bool = False, overwrite: bool = False) -> list[Stretch]:
        """Return the timeline, epoch by epoch; nothing is trained and nothing written.

        That of a run to resume is the whole one; the log tells after which epoch it goes on.

        Args:
            resume: As for `train`.
            overwrite: As for `train`.

        Raises:
            UserError: The run would fail.
        """
        paddle.set_device(self.run.device)
        _check_writable(self.save_dir)
        resume = resume or self._resumes_itself(overwrite)
        if not resume:
            check_free(self.save_dir, self.run.task, self.plan.teachers, overwrite)
        with told_by(self.plan.origins):
            if resume:
                self._engine([]).resume()
            engine = self._engine([])
            check_exports(engine.task, engine.model, self.recipe.exports, resume or overwrite)
            return rehearse(engine, self.recipe)

    def train(self, resume: bool = False, overwrite: bool = False) -> Engine:
        """Train to the end and return the engine.

        Args:
            resume: Go on from `latest` in the save folder; a plan with `resume: auto` does so if
                there is one.
            overwrite: Replace the run that the save folder holds.

        Raises:
            UserError: A setting, a file or the training is wrong.
        """
        paddle.set_device(self.run.device)
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
            raise ConfigError(f"save_dir: {self.save_dir} {reason}") from error
        rank, _ = initialize()
        settings = _plain(self.plan.to_mapping())
        where = self.run.train, self.save_dir, rank
        hooks = standard_hooks(*where, self.use_vdl, settings, self.use_tensorboard)
        if self.recipe.exports:
            hooks.insert(0, ExportsOnTheWay(self.recipe.exports))
        with told_by(self.plan.origins):
            engine = self._engine(hooks)
            engine.train(resume or self._resumes_itself(overwrite), overwrite)
        return engine

    def _resumes_itself(self, overwrite: bool) -> bool:
        interrupted = self.save_dir / "latest" / DESCRIPTION
        return self.plan.resume == "auto" and not overwrite and interrupted.is_file()

    def _engine(self, hooks: list[Hook]) -> Engine:
        return Engine(self.run, self.recipe, self.save_dir, hooks, self.plan.teachers)


def prepare(
    plan: RunPlan,
    save_dir: Path | None,
    name: str,
    use_vdl: bool = False,
    use_tensorboard: bool = False,
) -> PreparedRun:
    """Settle a plan, and where it goes.

    Args:
        plan: Plan of the files.
        save_dir: `--save_dir`; it overrides the files.
        name: Name of the folder in `output/<task>` if none is given.
        use_vdl: `--use_vdl`.
        use_tensorboard: Likewise.

    Raises:
        ConfigError: Anything unknown or wrong.
    """
    plan, run, recipe = settle(plan)
    folder = save_dir or Path(plan.save_dir or Path("output", run.task.name, name))
    scalars = use_vdl or plan.use_vdl, use_tensorboard or plan.use_tensorboard
    return PreparedRun(plan, run, recipe, folder, *scalars)


def save_plan(plan: RunPlan, file: Path) -> None:
    """Write the run in our own words, as a file for `-c`.

    Raises:
        FileError: It cannot be written, or there is a file that says something else.
    """
    text = yaml.safe_dump(_plain(plan.to_mapping()), sort_keys=False)
    if os.path.lexists(file) and not (file.is_file() and file.read_bytes() == text.encode()):
        raise FileError(f"{file}: is there, and says something else; name another file")
    write_text(file, text)


def _plain(value: Any) -> Any:
    """Return a value in plain types that YAML can write."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _check_writable(folder: Path) -> None:
    """Refuse, before anything is written, a folder that could not be made."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise FileError(f"save_dir: {folder} cannot be written: {there} is in the way")


def figures_of_best(engine: Engine) -> FileFigures:
    """Return size and metric of a training's best checkpoint, beside the weights it began with."""
    metric = engine.task.build_metric()
    began, pretrained = None, engine.task.config.model.pretrained
    if isinstance(pretrained, str) and not is_url(pretrained):
        about = load_description(pretrained)
        began = about.metrics.get(metric.primary) if about else None
    size = (engine.save_dir / "best_model" / WEIGHTS).stat().st_size / 1e6
    better = metric.higher_is_better
    return FileFigures("best_model", size, None, engine.best, began, better)
