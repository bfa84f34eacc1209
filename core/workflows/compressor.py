"""The two calls of PaddleSlim 1.x, for scripts: configure from a file, run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from core.errors import ConfigError
from core.settings.config import merge
from core.workflows.run_plan import RunFiles, RunPlan, read_plan
from core.workflows.training import PreparedRun, prepare

RATE = "learning_rate"


class Compressor:
    """Compresses a model as a file says: a Compressor file of 1.x, or a recipe of ours.

    A task is what 1.x wants programs, readers, feed and fetch lists for, and its config says where
    the data and the pretrained weights are; variables live in the model, so there is no scope.

    Args:
        config: Config of task and training: a YAML file, or its content. It replaces
            `train_program`, `train_reader`, `train_feed_list`, `train_fetch_list`, and the same
            of `eval_`.
        place: `cpu`, `gpu`, or None for what the config says.
        teachers: Configs or checkpoints of teachers, in the place of `teacher_programs`.
        checkpoint_path: Folder to save checkpoints to and resume from, if the file names none.
        train_optimizer: `{kind: ..., learning_rate: ..., ...}`; None: that of the config.
        distiller_optimizer: Likewise, while a teacher is at work; None: `train_optimizer`.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any],
        place: Literal["cpu", "gpu"] | None = None,
        teachers: Sequence[str] = (),
        checkpoint_path: str = "./checkpoints",
        train_optimizer: Mapping[str, Any] | None = None,
        distiller_optimizer: Mapping[str, Any] | None = None,
    ) -> None:
        self._config, self._place, self._teachers = config, place, tuple(teachers)
        self._checkpoint_path = checkpoint_path
        self._train_optimizer, self._distiller_optimizer = train_optimizer, distiller_optimizer
        self._training: PreparedRun | None = None

    def config(self, path: str | Path, overrides: Sequence[str] = ()) -> PreparedRun:
        """Read and check the file of the strategies.

        Args:
            path: YAML.
            overrides: `key.sub=value`.

        Raises:
            ConfigError: A file is wrong, or an optimizer is for nothing.
        """
        files = RunFiles(self._config, str(path), self._teachers, overrides)
        plan = self._with_optimizers(read_plan(files))
        if self._place is not None:
            plan = replace(plan, settings={**plan.settings, "device": self._place})
        plan = replace(plan, resume=plan.resume or "auto")
        folder = Path(plan.save_dir or self._checkpoint_path)
        self._training = prepare(plan, folder, folder.name, use_vdl=False)
        return self._training

    def run(self) -> dict[str, float]:
        """Train to the end, from where an earlier call was interrupted, and return the metrics.

        Raises:
            ConfigError: `config` was not called.
        """
        if self._training is None:
            raise ConfigError("compressor: nothing to run; call config(path) first")
        return self._training.train().metrics

    def _with_optimizers(self, plan: RunPlan) -> RunPlan:
        settings, recipe = plan.settings, plan.recipe
        if self._train_optimizer is not None:
            optimizer, rate = _split(self._train_optimizer, "train_optimizer")
            settings = merge(settings, {"train": {"optimizer": optimizer, **rate}})
        if self._distiller_optimizer is not None:
            optimizer, rate = _split(self._distiller_optimizer, "distiller_optimizer")
            steps = [dict(each) for each in recipe["strategies"]]
            learns = [each for each in steps if each["kind"] == "distill"]
            if not learns:
                raise ConfigError("distiller_optimizer: no strategy of the file distils")
            for each in learns:
                each |= {"optimizer": optimizer, **rate}
            recipe = {**recipe, "strategies": steps}
        return replace(plan, settings=settings, recipe=recipe)


def _split(optimizer: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of an optimizer, and its learning rate."""
    if not isinstance(optimizer, Mapping) or "kind" not in optimizer:
        raise ConfigError(f"{name}: expected a mapping with kind and learning_rate")
    rest = {key: value for key, value in optimizer.items() if key != RATE}
    return rest, {RATE: optimizer[RATE]} if RATE in optimizer else {}
