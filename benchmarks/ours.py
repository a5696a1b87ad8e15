"""Our side of what is measured, without PyTorch: a training step, and a writer of tokens."""

from collections.abc import Callable

import jax
import numpy as np

from benchmarks.work import PLAIN, Batch
from xformer.compiled import Compilations
from xformer.config import Config, override
from xformer.decode.generate import Generator
from xformer.models import build
from xformer.train.parallel import Parallel
from xformer.train.step import make_steps


class Ours:
    """The training step as `xformer.train.loop` runs it."""

    def __init__(self, config: Config):
        parallel = Parallel(config)
        init, train, _ = parallel.compile(make_steps(config, build(config)))
        self.place, self.train = parallel.place, Compilations().wrap('train_step', train)
        self.state = init()
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.index = 0

    def step(self, batch: Batch):
        """(loss, gradient norm) of one more update."""
        self.state, metrics = self.train(self.state, self.place(batch), np.int32(self.index))
        self.index += 1
        return metrics['loss'], metrics['grad_norm']


def without_dropout(config: Config) -> Config:
    """The same model as a deterministic function."""
    return override(config, PLAIN)


def writer(config: Config, params: dict, ids_BP: np.ndarray,
           lengths: tuple[int, ...]) -> Callable[[int], np.ndarray]:
    """(tokens to write, one of `lengths`) -> ids_BT, by `xformer.decode.generate`."""
    decoder = config.model.family == 'decoder'
    rows = [ids[decoder:].tolist() for ids in ids_BP]
    limit = 'decode.max_new_tokens' if decoder else 'decode.max_length'
    before = ids_BP.shape[1] - 1 if decoder else 0
    generators = {tokens: Generator(build(config), override(config, {
        limit: tokens, 'decode.min_length': before + tokens}), params, Compilations(),
        batch_tokens=max(4096, ids_BP.size * 2 + len(ids_BP) * tokens)) for tokens in lengths}
    return lambda tokens: np.array([best.ids for best, *_ in generators[tokens](rows)])
