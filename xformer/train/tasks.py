"""What a configuration trains: the losses of its family, or of its head."""

from collections.abc import Callable

import jax
import numpy as np

from xformer.config import Config, is_labelled
from xformer.train.heads import HEADS
from xformer.train.loss import FAMILIES, Task, summary


def task_of(config: Config) -> Task:
    """Its weights, sums and scores."""
    return HEADS[config.data.objective] if is_labelled(config) else FAMILIES[config.model.family]


def total_summary(parts: list, scores: Callable) -> dict[str, float]:
    """The summary and `scores` of the (sums, weights) of several batches, added up in double
    precision."""
    total = jax.tree.map(lambda *each: np.sum(each, axis=0, dtype=np.float64),
                         *jax.device_get(parts))
    values = {name: float(value) for name, value in summary(*total).items()}
    return values | scores(total[0])
