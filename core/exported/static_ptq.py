"""Static post-training quantization of an exported model: forward only, on images without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from core.exported.config import StaticPtqConfig
from core.exported.files import Quantized
from core.exported.session import Batch, Session, fitting
from core.quant.calibration import Calibration
from core.quant.table import LayerScales

Batches = Callable[[], Iterable[Batch]]
READER = "calibration"  # as errors name it


def arrays_of(images: Calibration) -> Batches:
    """Return calibration images as batches of arrays."""
    return lambda: ([tensor.numpy() for tensor in batch] for batch in images())


def calibrate(
    session: Session, batches: Batches, config: StaticPtqConfig
) -> tuple[dict[str, float], list[LayerScales]]:
    """Let PaddleSlim's `quant_post_static` find the grids; `session.run` is on them from now on.

    Args:
        session: With the float model.
        batches: Starts anew through the calibration data.
        config: How.

    Returns:
        The largest magnitudes by tensor, and the table for files.

    Raises:
        ExportError: PaddleSlim fails, or finds no grid for a layer.
        DataError: The data is not what the model takes.
    """
    settings = {
        "algo": config.algo,
        "hist_percent": config.percentile,
        "weight_quantize_type": config.weight_quantize_type,
        "quantizable_op_type": list(config.quantize_op_types),
    }
    scales = session.child.call(
        "quantize",
        settings,
        batches=lambda: map(session.feeds, fitting(session.source, batches(), READER)),
    )
    return scales, session.source.table(session.places, scales, config.per_channel)


def settle(session: Session, scales: Mapping[str, float], table: list[LayerScales]) -> Quantized:
    """Go back to grids that `calibrate` found, and return the model on them.

    Args:
        session: Of the same calls.
        scales: That it returned.
        table: That it returned.
    """
    session.child.call("load_scales", scales)
    return Quantized(session.source, session.source.graph, table, session)
