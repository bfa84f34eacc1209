"""Names of settings in other projects, and networks that a short name may stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from types import MappingProxyType

MOST_NAMES = 12  # in a message

# names of other libraries, without case and underscores; each may mean several of ours
_OTHERS = MappingProxyType(
    {
        "lr": ("learning_rate",),
        "lr0": ("learning_rate",),
        "baselr": ("learning_rate",),
        "learningrate": ("learning_rate",),
        "epoch": ("epochs",),
        "numepochs": ("epochs",),
        "maxepochs": ("epochs",),
        "maxepoch": ("epochs",),
        "iters": ("steps_per_epoch",),
        "bs": ("batch_size",),
        "batch": ("batch_size",),
        "batchsize": ("batch_size",),
        "trainbatchsize": ("batch_size",),
        "samplespergpu": ("batch_size",),
        "workers": ("num_workers",),
        "numworkers": ("num_workers",),
        "optim": ("optimizer",),
        "wd": ("weight_decay",),
        "weightdecay": ("weight_decay",),
        "scheduler": ("schedule",),
        "lrscheduler": ("schedule",),
        "lrschedule": ("schedule",),
        "warmup": ("warmup_epochs",),
        "ema": ("ema_decay",),
        "fp16": ("amp",),
        "useamp": ("amp",),
        "gradclip": ("clip_norm",),
        "clipgrad": ("clip_norm",),
        "maxgradnorm": ("clip_norm",),
        "patience": ("early_stop",),
        "earlystopping": ("early_stop",),
        "accumsteps": ("accumulate",),
        "evalinterval": ("eval_every",),
        "valinterval": ("eval_every",),
        "syncbn": ("sync_bn",),
        "imgsz": ("image_size", "input_size", "size"),
        "imgsize": ("image_size", "input_size", "size"),
        "imagesize": ("image_size", "input_size", "size"),
        "imageshape": ("image_size", "input_size", "size"),
        "inputsize": ("input_size", "image_size", "size"),
        "dataset": ("root",),
        "datasetroot": ("root",),
        "dataroot": ("root",),
        "datadir": ("root",),
        "datapath": ("root",),
        "nc": ("num_classes", "num_joints"),
        "classnum": ("num_classes",),
        "numclasses": ("num_classes",),
        "numkeypoints": ("num_joints",),
        "weights": ("pretrained",),
        "checkpoint": ("pretrained",),
        "pretrainedmodel": ("pretrained",),
        "labelsmoothing": ("label_smoothing",),
        "augmentation": ("augment",),
        "ratio": ("target_ratio", "pruned_ratio"),
        "prunedratio": ("pruned_ratio",),
        "temp": ("temperature",),
    }
)


class UnknownKey(str):
    """The message about a setting that there is not.

    Args:
        path: Its dotted path.
        hint: Suggestion for the end of the message.
    """

    path: str
    hint: str

    def __new__(cls, path: str, hint: str) -> UnknownKey:
        """Make the message, and keep its parts."""
        made = super().__new__(cls, f"{path}: unknown key{hint}")
        made.path, made.hint = path, hint
        return made


def other_name(wrong: str, known: Collection[str]) -> str | None:
    """Return our name for a setting of another library, if that is among the known."""
    plain = _plain(wrong)
    same = next((name for name in known if _plain(name) == plain), None)
    return same or next((name for name in _OTHERS.get(plain, ()) if name in known), None)


def suggest_family(wrong: str, known: Sequence[str]) -> str:
    """Return the known names that a short one begins, as ` (did you mean ...?)`; or nothing."""
    plain = _plain(wrong)
    family = [name for name in known if _plain(name).startswith(plain)]
    if len(plain) < 3 or not family:
        return ""
    family.sort(key=lambda name: (_plain(name) != plain, name))
    more = len(family) - MOST_NAMES
    names = ", ".join(family[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return f" (did you mean {family[0]!r}?)" if len(family) == 1 else f" (did you mean {names}?)"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
