"""Learning-rate schedules and the optimizer, from the `optim` section of a configuration."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from xformer.config import Config, UserError

Schedule = Callable[[jax.Array], jax.Array]


def make_schedule(config: Config) -> Schedule:
    """Learning rate of update t = 0, 1, ... as a function of t.

    All rise linearly over w = warmup_steps to the peak p (update w-1 has it), then:
    noam          factor · D^-½ · min(n^-½, n·w^-1.5) with n = t+1 (Vaswani et al. 2017, eq. 3)
    inverse_sqrt  p · (w / n)^½
    rsqrt         the same, but p from the first step (T5; Raffel et al. 2020, section 3.1.2)
    linear        straight down to final_fraction · p at the last step
    cosine        half a cosine down to final_fraction · p (Loshchilov & Hutter 2017)
    wsd           p, then straight down over the last decay_fraction of all steps (Hu et al. 2024)
    constant      p
    """
    optim, total = config.optim, config.train.steps
    warmup, final = optim.warmup_steps, optim.final_fraction
    peak = optim.peak_learning_rate
    if optim.schedule == 'noam':
        peak = optim.noam_factor * (config.model.d_model * warmup) ** -0.5

    def after_warmup(n):
        if optim.schedule in ('noam', 'inverse_sqrt', 'rsqrt'):
            return jnp.sqrt(warmup / n)
        if optim.schedule == 'constant':
            return jnp.ones_like(n)
        begin = warmup
        if optim.schedule == 'wsd':
            begin = max(warmup, total * (1 - optim.decay_fraction))
        progress = jnp.clip((n - begin) / max(total - begin, 1), 0.0, 1.0)
        if optim.schedule == 'cosine':
            progress = (1 - jnp.cos(jnp.pi * progress)) / 2
        return 1 - (1 - final) * progress

    def schedule(t):
        n = jnp.asarray(t, jnp.float32) + 1
        rises = warmup and optim.schedule != 'rsqrt'
        rise = n / warmup if rises else jnp.ones_like(n)
        return peak * jnp.where(n < warmup, rise, after_warmup(jnp.maximum(n, max(warmup, 1))))
    return schedule


def path_of(path) -> str:
    """'encoder/encoder/layers/feed_forward/up/kernel'."""
    return '/'.join(part.key for part in path)


def frozen_at(path, freeze: str) -> bool:
    """Whether a parameter is below one of the paths in train.freeze."""
    return any(f'{path_of(path)}/'.startswith(f'{part.strip("/")}/')
               for part in freeze.split(',') if part)


def check_frozen(params, freeze: str) -> None:
    """Raises UserError unless each path in train.freeze has parameters, and others are left."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for part in filter(None, freeze.split(',')):
        if not any(frozen_at(path, part) for path in paths):
            known = {'/'.join(path_of(path).split('/')[:depth]) for path in paths
                     for depth in (1, 2)}
            raise UserError(f'train.freeze={freeze}: there are no parameters {part!r}; there are: '
                            f'{", ".join(sorted(known))}')
    if all(frozen_at(path, freeze) for path in paths):
        raise UserError(f'train.freeze={freeze} leaves nothing to train')


def decays(params, freeze: str) -> dict:
    """Which parameters weight decay applies to: matrices and embeddings, by their path.

    Not by their rank: stacked over layers, the biases are two-dimensional as well.
    """
    def matrix(path, _):
        weight = path[-1].key == 'kernel' or path[-1].key.endswith('embedding')
        return weight and not frozen_at(path, freeze)
    return jax.tree_util.tree_map_with_path(matrix, params)


def by_layer(decay: float) -> optax.GradientTransformation:
    """Updates × decay^(L-l) in layer l = 0 ... L-1 of a stack, × decay^(L+1) in the embeddings
    below it (ULMFiT's discriminative fine-tuning, Howard & Ruder 2018, section 3.2)."""
    def update(updates, state, params=None):
        depth = max((leaf.shape[0] for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
                     if 'layers' in path_of(path).split('/')), default=0)

        def scaled(path, leaf):
            parts = path_of(path).split('/')
            if 'layers' in parts:
                factors = decay ** jnp.arange(leaf.shape[0], 0, -1, dtype=jnp.float32)
                return leaf * factors.reshape(-1, *(1,) * (leaf.ndim - 1))
            return leaf * decay ** (depth + 1) if any('embedding' in part for part in parts) \
                else leaf
        return jax.tree_util.tree_map_with_path(scaled, updates), state
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or Adafactor (Shazeer & Stern
    2018, with their section 8's relative steps: the rate is × the root mean square of a
    parameter), and then optim.layer_decay. Clipping by the norm of all gradients is the step's,
    and so is freezing, but for weight decay.
    """
    optim, schedule = config.optim, make_schedule(config)
    adam = {'b1': optim.beta1, 'b2': optim.beta2, 'eps': optim.epsilon}
    if optim.optimizer == 'adafactor':
        optimizer = optax.adafactor(schedule)
    elif optim.optimizer == 'adam':
        optimizer = optax.adam(schedule, **adam)
    else:
        mask = partial(decays, freeze=config.train.freeze)
        optimizer = optax.adamw(schedule, weight_decay=optim.weight_decay, mask=mask, **adam)
    return optimizer if optim.layer_decay == 1 else optax.chain(
        optimizer, by_layer(optim.layer_decay))
