"""Cut a trained checkpoint to the channels that PaddleSlim keeps, ready to be fine-tuned here.

So both are trained on by the same loop, and differ in what was cut alone:

    python -m benchmarks.peers.start_from_paddleslim CHECKPOINT --target 0.5 --save_dir START
    python tools/train.py -c CONFIG -o model.pretrained=START
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import argparse
import sys
from pathlib import Path

from benchmarks.peers.paddleslim_prune import PeerJob, run_peer, to_mask
from benchmarks.peers.processes import PeerError
from core.prune.cut import apply_edit, check_cut, plan_edit
from core.prune.pruner import build_pruner, fixed_specs
from core.training import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="trained, of ours")
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs to remove")
    parser.add_argument("--criterion", choices=("l1_norm", "fpgm"), default="l1_norm")
    parser.add_argument("--save_dir", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=600, help="seconds that PaddleSlim may take")
    arguments = parser.parse_args()
    task, model = checkpoint.restore(arguments.checkpoint)
    specs = fixed_specs(task)
    job = PeerJob(
        checkpoint=str(Path(arguments.checkpoint).resolve()),
        shape=tuple(specs[0].shape),
        criteria={arguments.criterion: ("*",)},
        target=arguments.target,
    )
    try:
        (found,) = run_peer(job, arguments.limit)
        analysis = build_pruner(task, model).analysis
        keep = to_mask(analysis, found["kept"])
    except PeerError as error:
        sys.exit(f"error: PaddleSlim: {error}")
    edit = plan_edit(model, analysis, keep)
    apply_edit(model, edit)
    misfits = check_cut(model, specs, analysis, keep)
    if misfits:
        sys.exit(f"error: the network does not fit together any more: {misfits}")
    described = checkpoint.load_description(arguments.checkpoint)
    edits = [*(described.edits if described else ()), ("prune", {"cuts": [edit.to_record()]})]
    checkpoint.save(arguments.save_dir, checkpoint.describe(task, edits), model.state_dict())
    cost, whole = analysis.cost, analysis.keep_all()
    print(
        f"{arguments.save_dir}: {found['ratio']:.1%} of the channels of every convolution; "
        f"MACs {cost.macs(whole) / 1e6:.2f} -> {cost.macs(keep) / 1e6:.2f} M, "
        f"parameters {cost.parameters(whole) / 1e6:.3f} -> {cost.parameters(keep) / 1e6:.3f} M"
    )


if __name__ == "__main__":
    main()
