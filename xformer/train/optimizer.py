"""Learning-rate schedules and the optimizer, from the `optim` section of a configuration."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from xformer.config import Config

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


def decays(params) -> dict:
    """Which parameters weight decay applies to: matrices and embeddings, by their path.

    Not by their rank: stacked over layers, the biases are two-dimensional as well.
    """
    def matrix(path, _):
        return path[-1].key == 'kernel' or path[-1].key.endswith('embedding')
    return jax.tree_util.tree_map_with_path(matrix, params)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or Adafactor (Shazeer & Stern
    2018, with their section 8's relative steps: the rate is × the root mean square of a
    parameter). Clipping by the norm of all gradients is the step's.
    """
    optim = config.optim
    if optim.optimizer == 'adafactor':
        return optax.adafactor(make_schedule(config))
    adam = {'b1': optim.beta1, 'b2': optim.beta2, 'eps': optim.epsilon}
    if optim.optimizer == 'adam':
        return optax.adam(make_schedule(config), **adam)
    return optax.adamw(make_schedule(config), weight_decay=optim.weight_decay, mask=decays, **adam)
