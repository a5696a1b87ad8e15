"""Suite seeds: several seeds of a small model trained together, by `vmap` in one compiled step,
against the same seeds one after the other.

No PyTorch: it decides whether a sweep should train its seeds together, and has no bar.
"""

from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours import Ours
from benchmarks.parity import announce, check_close
from benchmarks.results import OURS, compared
from benchmarks.work import Batch, gpt_batches, gpt_config
from xformer.config import Config, override, to_flat
from xformer.models import build
from xformer.train.step import make_steps

SEEDS = (0, 1, 2)
CASES = {  # layers, width, heads, context, rows; the first two of lm_shakespeare_char and grokking
    '4 layers, 128 wide': (4, 128, 4, 64, 12),
    '2 layers, 128 wide': (2, 128, 4, 5, 512),
    '2 layers, 32 wide': (2, 32, 2, 16, 8)}
STEPS = 20  # of each seed in a round
TOLERANCES = {'loss': 1e-6, 'parameters': 1e-5}


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite. Raises RuntimeError if the two ways train different models."""
    return {name: _case(name, *sizes, repeats, *peers) for name, sizes in CASES.items()}


def _case(name: str, layers: int, width: int, heads: int, context: int, rows: int, repeats: int,
          peer: str) -> dict:
    announce(name)
    config = override(gpt_config(layers, width, heads, context), {'parallel.devices': 1})
    batches = gpt_batches(context, rows, len(SEEDS))  # another one of each seed
    together = Together(config)
    alone = [Ours(override(config, {'train.seed': seed})) for seed in SEEDS]
    differences = _parity(together, alone, batches)

    def all_at_once() -> None:
        for _ in range(STEPS):
            loss_R = together.step(batches)
        loss_R.block_until_ready()

    def one_by_one() -> None:
        for run, batch in zip(alone, batches):
            for _ in range(STEPS):
                loss, _ = run.step(batch)
            loss.block_until_ready()

    return {'config': to_flat(config), 'parity': {peer: differences}} | compared(
        {OURS: all_at_once, peer: one_by_one}, len(SEEDS) * STEPS, 'steps/s', None, repeats, name)


class Together:
    """Runs of all SEEDS, of which every array has one more axis, R."""

    def __init__(self, config: Config):
        model = build(config)

        def steps(seed):  # traced, which no configuration read from text could be
            return make_steps(replace(config, train=replace(config.train, seed=seed)), model)

        def train(seed, state, batch, index):
            state, metrics = steps(seed).train(state, batch, index)
            return state, metrics['loss']

        self.seeds_R = jnp.array(SEEDS)
        self.train = jax.jit(jax.vmap(train, in_axes=(0, 0, 0, None)), donate_argnums=1)
        self.state = jax.jit(jax.vmap(lambda seed: steps(seed).init()))(self.seeds_R)
        self.index = 0

    def step(self, batches: list[Batch]) -> jax.Array:
        """loss_R of one more update of every run, each on its own batch."""
        batch = jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
        self.state, loss_R = self.train(self.seeds_R, self.state, batch, np.int32(self.index))
        self.index += 1
        return loss_R


def _parity(together: Together, alone: list[Ours], batches: list[Batch]) -> dict[str, float]:
    """Greatest relative difference of losses, and greatest of parameters, over three updates."""
    for _ in range(3):
        loss_R = together.step(batches)
        losses = [run.step(batch)[0] for run, batch in zip(alone, batches)]
        loss = max(check_close('loss', float(ours), float(theirs), TOLERANCES['loss'])
                   for ours, theirs in zip(loss_R, losses))
    apart = max(float(abs(ours[place] - theirs).max()) for place, run in enumerate(alone)
                for ours, theirs in zip(jax.tree.leaves(together.state.params),
                                        jax.tree.leaves(run.state.params)))
    if apart > TOLERANCES['parameters']:
        raise RuntimeError(f'parameters are {apart:.1e} apart')
    return {'loss': loss, 'parameters': apart}
