"""PaddleSlim's quantization-aware training as a strategy, to be trained with the same engine.

    echo 'strategies: [{kind: "benchmarks.peers.paddleslim_qat:PaddleSlimQat"}]' > paddleslim.yml
    FLAGS_enable_pir_api=0 PYTHONPATH=. python tools/train.py -c CONFIG \\
        -o model.pretrained=FLOAT_RUN/best_model --slim paddleslim.yml --save_dir RUN

Learning rate and epochs are those that our own strategy would have: the task's. The files that it
writes at the end are in RUN/paddleslim; PaddleSlim leaves a process in static mode, so nothing may
come after. The run's checkpoints are not for us to restore.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import paddle
from paddle.nn import Layer

from core.strategy import Context, Phase, Record, Strategy, StrategyConfig

FILES = "paddleslim"
CONFIG = MappingProxyType(
    {
        "weight_preprocess_type": None,
        "activation_preprocess_type": "PACT",
        "weight_quantize_type": "channel_wise_abs_max",
        "activation_quantize_type": "moving_average_abs_max",
        "quantizable_layer_type": ["Conv2D", "Linear"],
    }
)


class PaddleSlimQat(Strategy):
    """Wraps convolutions and linear layers with PaddleSlim's, PACT included."""

    Config = StrategyConfig
    phase = Phase.GRID

    def attach(self, model: Layer, context: Context) -> None:
        from paddleslim.dygraph.quant import QAT

        self._context = context
        self._scale = context.task.qat_budget.learning_rate_scale
        self._quanter = QAT(config=dict(CONFIG))
        self._quanter.quantize(model)

    def learning_rate_scale(self) -> float:
        return self._scale

    def record(self) -> Record | None:
        return {}

    @staticmethod
    def replay(model: Layer, record: Record) -> None:
        raise NotImplementedError("PaddleSlim's wrappers are not for us to restore")

    def detach(self, model: Layer) -> None:
        model.eval()
        shape = [None, *self._context.task.input_spec()[0].shape[1:]]
        spec: Any = [paddle.static.InputSpec(shape, "float32", "image")]
        place = str(self._context.save_dir / FILES / "model")
        self._quanter.save_quantized_model(model, place, input_spec=spec)
