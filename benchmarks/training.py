"""A training step of ours and the same one as one writes it in PyTorch, compared."""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.ours import Ours, without_dropout
from benchmarks.parity import announce, check_close
from benchmarks.results import OURS, compared
from benchmarks.timing import cpus
from benchmarks.work import Batch
from xformer.config import Config, to_flat
from xformer.train.optimizer import make_schedule

LossOf = Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor]
MakePeer = Callable[[Config, dict, str], 'Peer']  # of our parameters, by the peer's name
TOLERANCES = {  # relative; in bfloat16 the two round in different places
    'float32': {'loss': 1e-5, 'gradient norm': 1e-4},
    'bfloat16': {'loss': 2e-3, 'gradient norm': 2e-2}}


class Peer:
    """Any PyTorch model that `loss_of` takes to a loss: fused AdamW, clipping, our schedule.

    With model.dtype=bfloat16 the loss is computed under autocast.
    """

    def __init__(self, config: Config, model: torch.nn.Module, loss_of: LossOf):
        torch.manual_seed(config.train.seed)
        self.model, self.loss_of, self.optim = model.train(), loss_of, config.optim
        self.device = next(model.parameters()).device
        self.autocast = config.model.dtype == 'bfloat16'
        self.num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.rates = np.asarray(make_schedule(config)(jnp.arange(config.train.steps))).tolist()
        optim, trained = config.optim, [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{'params': [p for p in trained if p.ndim > 1], 'weight_decay': optim.weight_decay},
             {'params': [p for p in trained if p.ndim < 2], 'weight_decay': 0.0}],
            betas=(optim.beta1, optim.beta2), eps=optim.epsilon, fused=True)
        self.index = 0

    def step(self, batch: Batch):
        """(loss, gradient norm) of one more update."""
        batch = {name: torch.from_numpy(values).to(self.device) for name, values in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss_of(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(),
                                              self.optim.clip_norm or math.inf)
        for group in self.optimizer.param_groups:
            group['lr'] = self.rates[min(self.index, len(self.rates) - 1)]
        self.optimizer.step()
        self.index += 1
        return loss.detach(), norm


def compare_steps(config: Config, make_peer: MakePeer, peers: Iterable[str],
                  batches: list[Batch] | dict[str, list[Batch]], count: Callable[[Batch], int],
                  unit: str, bar: float, rounds: int, title: str,
                  tolerance: dict[str, float] | None = None) -> dict:
    """A case of `benchmarks.results`: every round each side makes an update on all its batches.

    Batches are those of all, or of each side by name; `count` says what one of them is worth.
    Raises RuntimeError unless, without dropout, all make the same two updates on a batch of ours.
    """
    announce(title)
    torch.set_num_threads(cpus())
    if not isinstance(batches, dict):
        batches = dict.fromkeys([OURS, *peers], batches)
    plain = without_dropout(config)
    sides = both(plain, make_peer, peers)
    differences = parity(sides, batches[OURS][:1] * 2,
                         tolerance or TOLERANCES[config.model.dtype])
    if plain != config:
        sides = both(config, make_peer, peers)

    def work(side: str):
        def steps() -> None:
            for loss in [sides[side].step(batch)[0] for batch in batches[side]]:
                float(loss)  # waits for it
        return steps

    amounts = {side: sum(map(count, batches[side])) for side in sides}
    return {'config': to_flat(config), 'parity': differences} | compared(
        {side: work(side) for side in sides}, amounts, unit, bar, rounds, title)


def both(config: Config, make_peer: MakePeer, peers: Iterable[str]) -> dict:
    """Ours and the peers by name, with the same weights and no update made."""
    ours = Ours(config)
    params = jax.device_get(ours.state.params)
    return {OURS: ours} | {peer: make_peer(config, params, peer) for peer in peers}


def parity(sides: dict, batches: list[Batch],
           tolerance: dict[str, float] = TOLERANCES['float32']) -> dict[str, dict[str, float]]:
    """By peer the largest relative difference of 'loss' and 'gradient norm' over updates.

    The second update and later ones see the weights that the optimizers made. Raises
    RuntimeError beyond the tolerance, or where the numbers of parameters differ.
    """
    ours, *_ = sides.values()
    expected = [ours.step(batch) for batch in batches]
    found = {}
    for name, peer in sides.items():
        if peer is ours:
            continue
        if ours.num_parameters != peer.num_parameters:
            raise RuntimeError(f'ours has {ours.num_parameters} parameters, '
                               f'{name} {peer.num_parameters}')
        made = [peer.step(batch) for batch in batches]
        found[name] = {what: max(check_close(f'{what} of {name}', float(a[index]),
                                             float(b[index]), limit)
                                 for a, b in zip(expected, made))
                       for index, (what, limit) in enumerate(tolerance.items())}
    return found
