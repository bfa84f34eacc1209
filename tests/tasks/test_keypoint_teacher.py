"""A teacher that sees larger pictures than its student answers for the same points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from core.distill.teacher import Teacher, read_teacher
from core.settings.config import merge
from core.task import Task, build_task
from core.training import checkpoint
from tasks.keypoint.codec import Codec

SMALL, LARGE = (128, 96), (256, 192)


def task_for(size: tuple[int, int], udp: bool) -> Task:
    settings = {
        "model": {"name": "lite_hrnet_18"},
        "data": {"root": "nowhere", "input_size": list(size)},
        "codec": {"udp": udp, "target": "subpixel", "decoding": "dark", "blur_kernel": 3},
    }
    return build_task("keypoint", merge(settings, {"codec": {"sigma": size[0] / 128}}))


@pytest.fixture(params=[False, True], ids=["classic", "udp"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Teacher:
    task = task_for(LARGE, request.param)
    state = task.build_model().state_dict()
    checkpoint.save(tmp_path / "large", checkpoint.describe(task), state)
    return Teacher(read_teacher(str(tmp_path / "large")), task_for(SMALL, request.param))


def points_of(teacher: Teacher) -> tuple[np.ndarray, np.ndarray]:
    """Return points near all sides of the small picture, and where they are in the large one."""
    small = np.array([[11.0, 12.0], [84.0, 12.0], [11.0, 115.0], [84.0, 115.0], [40.3, 60.6]])
    shorter = 1 if teacher.task.config.codec.udp else 0
    return small, small * (np.subtract(LARGE, shorter) / np.subtract(SMALL, shorter))[::-1]


def test_it_sees_a_point_where_its_own_picture_would_have_it(teacher: Teacher) -> None:
    for (x, y), wanted in zip(*points_of(teacher)):
        rows, columns = np.mgrid[: SMALL[0], : SMALL[1]]
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8).astype("float32")
        picture = paddle.to_tensor(np.tile(spot, (1, 3, 1, 1)))
        seen = teacher.inputs({"image": picture})[0].numpy()[0, 0]
        assert seen.shape == LARGE
        rows, columns = np.mgrid[: LARGE[0], : LARGE[1]]
        centre = [(seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()]
        np.testing.assert_allclose(centre, wanted, atol=0.06)


def test_its_heatmaps_have_a_point_where_the_students_have_it(teacher: Teacher) -> None:
    small, large = points_of(teacher)
    udp = teacher.task.config.codec.udp
    joints = np.ones(len(small), bool)
    wide, narrow = (Codec(task_for(s, udp).config.codec, s) for s in (LARGE, SMALL))
    heatmaps, _ = wide.encode(large, joints)
    resized = teacher.at_students_scale(paddle.to_tensor(heatmaps[None])).numpy()
    expected, _ = narrow.encode(small, joints)
    # UDP reads between pixels, which flattens a peak of one pixel's width
    np.testing.assert_allclose(resized[0], expected, atol=0.13 if udp else 1e-6)
    np.testing.assert_allclose(narrow.decode(resized)[0, :, :2], small, atol=0.25)
