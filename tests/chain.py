"""The wheel at work, in a new environment of each Python of this machine: no test for pytest.

    python tests/chain.py                      every Python from 3.10 to 3.13 that is found
    python tests/chain.py --but 3.11           but for these
    python tests/chain.py --python PATH ...    these alone

Plain pip installs the wheel into an environment of its own, and in an empty folder the command
`trislim` trains, quantizes in training, exports, quantizes an exported model without its code, and
evaluates. It takes about two minutes for each Python; two run at a time. The standard library is
all that this needs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AT_A_TIME = 2
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
BACKENDS = ("paddle", "onnxruntime", "openvino")
BY_HAND = {"3.13": ("paddleclas==2.6.0", "paddleslim==2.6.0")}  # README, "Versions"
SMALL = (
    "-o train.epochs=1 -o train.batch_size=8 -o synthetic.train_images=32 "
    "-o synthetic.val_images=16 -o data.num_workers=0"
)
STEPS = """\
--help
train -c cls/demo.yml --save_dir float {small}
train -c cls/demo.yml --slim qat -o model.pretrained=float/best_model --save_dir qat {small}
qat-export --weights qat/best_model --save_dir int8 --format {formats} --no_metric
export --weights float/best_model --save_dir exported --format {formats}
ptq --model_dir exported --images demo_data/cls/val --save_dir ptq --no_metric
benchmark --model_dir exported int8 --runs 3 --no_memory
train -c seg/demo.yml --dry_run --save_dir seg -o synthetic.train_images=8 -o synthetic.val_images=4
train -c keypoint/demo.yml --dry_run --save_dir keypoint -o synthetic.train_images=16
"""


def find_pythons() -> Iterator[tuple[str, Path]]:
    """Yield version and path of each Python on the path or of pyenv, one of each version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for version in VERSIONS:
        found = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
        named = shutil.which(f"python{version}")
        for path in ([Path(named)] if named else []) + found[::-1]:
            if version_of(path) == version:
                yield version, path
                break


def version_of(python: Path) -> str:
    """Return the version of an interpreter, such as 3.12; empty if it does not start."""
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def run(command: list[str | Path], folder: Path, log: Path, **variables: str) -> None:
    """Run a command to its end; show the end of what it said if it fails."""
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(
            command, cwd=folder, env=own | variables, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
        sys.exit("\n".join([*last, f"error: {shlex.join(map(str, command))}: {done.returncode}"]))


def build_wheel(folder: Path, log: Path) -> Path:
    """Build the wheel from a copy of the sources, so that the checkout stays as it is."""
    source = folder / "source"
    for part in ("core", "tasks", "tools", "configs", "trislim"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    run([*pip, source], folder, log)
    [wheel] = folder.glob("*.whl")
    return wheel


def check(version: str, python: Path, wheel: Path, folder: Path) -> None:
    """Install the wheel for one Python, and take a model from training to int8 files."""
    begin, log, empty = time.monotonic(), folder / "log.txt", folder / "empty"
    empty.mkdir(parents=True)
    run([python, "-m", "venv", folder / "venv"], folder, log)
    bin_folder = folder / "venv" / "bin"
    install = [bin_folder / "python", "-m", "pip", "install", "--quiet"]
    run([*install, "-c", ROOT / "constraints.txt", wheel], folder, log)
    run([bin_folder / "python", "-m", "pip", "check"], folder, log)
    if version in BY_HAND:
        run([*install, "--no-deps", *BY_HAND[version]], folder, log)
    installed = time.monotonic()
    steps = STEPS.format(small=SMALL, formats="paddle,onnx").splitlines()
    steps += [f"eval --model_dir int8 --backend {each}" for each in BACKENDS]
    for step in steps:
        run([bin_folder / "trislim", *shlex.split(step)], empty, log, OMP_NUM_THREADS="1")
    spent = installed - begin, time.monotonic() - installed
    print(
        f"Python {version}: {len(steps)} commands, {spent[1]:.0f} s; installed in {spent[0]:.0f} s"
    )


def main() -> None:
    """Check each Python that is wanted; end with status 1 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--but", nargs="+", default=[], metavar="VERSION", help="leave these out")
    parser.add_argument("--python", nargs="+", type=Path, default=[], help="these alone")
    arguments = parser.parse_args()
    pythons = [(version_of(path), path) for path in arguments.python] or list(find_pythons())
    pythons = [(version, path) for version, path in pythons if version not in arguments.but]
    print("Pythons:", ", ".join(f"{version} ({path})" for version, path in pythons) or "none")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder), Path(folder, "log.txt"))

        def check_one(version: str, python: Path) -> None:
            check(version, python, wheel, Path(folder, version))
            shutil.rmtree(Path(folder, version))  # an environment has more than a gigabyte

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            checks = [pool.submit(check_one, *each) for each in pythons]
            for finished in as_completed(checks):
                if finished.exception() is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                finished.result()


if __name__ == "__main__":
    main()
