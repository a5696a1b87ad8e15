"""Our side of `benchmarks.gpu`, one process a section: arguments in JSON, the last line its result.

    python -m benchmarks.gpu_sections train '{"model": "gpt2", "rows": 32, "length": 1024}'

Every section takes its sizes, and runs on any device: what only a GPU can show (its memory, which
attention is chosen) is left to `benchmarks.gpu` to ask for.
"""

import json
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours import Ours, writer
from benchmarks.parity import check_close
from benchmarks.results import OURS
from benchmarks.timing import alternate
from benchmarks.work import (
    PLAIN,
    TRANSLATION,
    Batch,
    bert_batches,
    bert_config,
    gpt_batches,
    gpt_config,
    pair_batch,
)
from experiments import cli
from xformer.config import Config, override
from xformer.data.objectives import real_tokens
from xformer.models import build, init_params
from xformer.nn.attention import reference_attention
from xformer.nn.backends import attend, suitable
from xformer.nn.masks import Mask
from xformer.presets import preset
from xformer.train.flops import peak_flops, update_flops
from xformer.train.telemetry import device_peak_memory_mib

GPT2_VOCAB = 50_304  # 50,257 rounded up to a multiple of 64, as nanoGPT and llm.c do


def configured(model: str, changes: dict) -> Config:
    """That model in bfloat16 without dropout, on one device; its layers unrolled for speed."""
    config = {
        'gpt2': lambda: override(gpt_config(12, 768, 12, 1024), {'model.vocab_size': GPT2_VOCAB}),
        'bert-base': lambda: bert_config('bert-base', 512, 30_522),
        'transformer-big': lambda: override(preset('transformer-big', TRANSLATION), PLAIN)}[model]()
    return override(config, {'model.dtype': 'bfloat16', 'parallel.devices': 1} | changes)


def batches_of(model: str, config: Config, rows: int, length: int, number: int) -> list[Batch]:
    """Random batches of that model; a pair has `length` slots on each side."""
    vocab_size = config.model.vocab_size
    if model == 'transformer-big':
        random = np.random.default_rng(0)
        return [pair_batch(random, (rows, length, length), vocab_size) for _ in range(number)]
    make = bert_batches if model == 'bert-base' else gpt_batches
    return make(length, rows, number, vocab_size)


def device() -> dict:
    """What computes here."""
    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get('bytes_limit', 0)
    return {'platform': jax.default_backend(), 'kind': first.device_kind,
            'memory_mib': memory // 2**20, 'jax': jax.__version__}


def train(model: str, rows: int, length: int, changes: dict | None = None, rounds: int = 8,
          updates: int = 10, twice: bool = False) -> dict:
    """Seconds of rounds of updates; loss and gradient norm of two updates on one batch before.

    `twice`: RuntimeError unless two runs make the same two, bit by bit.
    """
    config = configured(model, changes or {})
    batches = batches_of(model, config, rows, length, updates)

    def checked(ours: Ours) -> list[list[float]]:
        return [[float(value) for value in ours.step(batches[0])] for _ in range(2)]

    ours = Ours(config)
    checks = checked(ours)
    if twice and checked(Ours(config)) != checks:
        raise RuntimeError(f'two runs of {model} from the same seed differ')
    rounds = alternate({OURS: partial(updated, ours, batches)}, rounds, model)
    return {'seconds': [row[OURS] for row in rounds], 'checks': checks,
            'tokens': sum(map(real_tokens, batches)), 'parameters': ours.num_parameters,
            'flops': sum(update_flops(config, batch) for batch in batches),
            'peak_flops': peak_flops(jax.devices()[0].device_kind, config.model.dtype),
            'memory_mib': device_peak_memory_mib()}


def updated(side, batches: list[Batch]) -> None:
    """An update on each batch, of ours or of a peer, done and not merely dispatched."""
    for loss in [side.step(batch)[0] for batch in batches]:
        float(loss)


def attention(rows: int, length: int, heads: int, width: int, expected: str,
              tolerance: float) -> dict:
    """By mask the differences of what `auto` computes in bfloat16, output and gradients, from the
    reference in float32 on the same numbers.

    Raises RuntimeError beyond the tolerance, and where `auto` takes another form than `expected`.
    """
    lengths_B = jnp.asarray(np.linspace(length // 4, length // 2, rows).astype(np.int32))
    documents_BT = 1 + jnp.arange(length)[None] * jnp.arange(1, rows + 1)[:, None] // length
    masks = {'causal': Mask(causal=True), 'padded': Mask(key_lengths_B=lengths_B),
             'packed': Mask(causal=True, query_segments_BT=documents_BT,
                            key_segments_BS=documents_BT),
             'window': Mask(causal=True, window=max(length // 8, 1)),
             'cross': Mask(key_lengths_B=lengths_B)}
    found = {}
    for name, mask in masks.items():
        S = length // 2 if name == 'cross' else length
        keys = jax.random.split(jax.random.key(0), 4)
        q, k, v, g = (jax.random.normal(key, (rows, slots, heads, width), jnp.bfloat16)
                      for key, slots in zip(keys, (length, S, S, length)))
        backend = suitable(q, k, mask, None, None)
        if backend != expected:
            raise RuntimeError(f'model.attention=auto takes {backend} for the mask {name}, not '
                               f'{expected}')
        made = differentiated(partial(attend, 'auto', mask=mask), q, k, v, g)
        with jax.default_matmul_precision('highest'):
            wanted = differentiated(partial(reference_attention, mask=mask),
                                    *(x.astype(jnp.float32) for x in (q, k, v, g)))
        found[name] = {what: check_close(f'{what}, {name}', a, b, tolerance) for what, a, b in zip(
            ('output', 'query gradient', 'key gradient', 'value gradient'), made, wanted)}
    return {'backend': expected, 'differences': found}


def differentiated(function, q, k, v, g) -> list[np.ndarray]:
    """The output and the three gradients, in float32."""
    def step(q, k, v, g):
        out, back = jax.vjp(lambda q, k, v: function(q, k, v), q, k, v)
        return out, *back(g)
    return [np.asarray(x.astype(jnp.float32)) for x in jax.jit(step)(q, k, v, g)]


def prompts(rows: int, length: int, config: Config) -> np.ndarray:
    """ids_BP: BOS, and random tokens."""
    ids_BP = np.random.default_rng(0).integers(3, config.model.vocab_size, (rows, length))
    ids_BP[:, 0] = config.model.bos_id
    return ids_BP


def decode(rows: int, prompt: int, new: int, changes: dict | None = None,
           rounds: int = 5) -> dict:
    """Seconds in which GPT-2 with random weights reads the prompts and writes `new` tokens."""
    config = override(configured('gpt2', changes or {}), {'decode.beam_size': 1})
    params = init_params(build(config), jax.random.key(config.train.seed))
    write = writer(config, params, prompts(rows, prompt, config), (new,))
    return written(partial(write, new), rounds)


def written(write, rounds: int) -> dict:
    """The tokens that either side writes, and the seconds of every round."""
    ids_BT = write()
    rows = alternate({OURS: write}, rounds, 'decode')
    return {'seconds': [row[OURS] for row in rows], 'ids': np.asarray(ids_BT).tolist()}


def biggest(model: str, rows: int, most: int, length: int, seconds: float,
            changes: dict | None = None) -> dict:
    """The most rows of a training step, doubling from `rows`, and why it ended there.

    `seconds`: no doubling is begun once half of them have passed, since each takes longer.
    """
    config, start = configured(model, changes or {}), time.monotonic()
    ours, found = Ours(config), {'rows': 0, 'tokens_per_second': 0.0, 'memory_mib': None}
    while rows <= most:
        if time.monotonic() - start > seconds / 2:
            return found | {'end': f'the time was up before {rows:,} rows were tried'}
        batch = batches_of(model, config, rows, length, 1)
        try:
            updated(ours, batch)
            [row] = alternate({OURS: partial(updated, ours, batch)}, 1, f'{rows:,} rows')
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            return found | {'end': f'out of memory at {rows:,} rows: '
                                   f'{str(error).splitlines()[0][:200]}'}
        found = {'rows': rows, 'memory_mib': device_peak_memory_mib(),
                 'tokens_per_second': round(real_tokens(batch[0]) / row[OURS], 1)}
        rows *= 2
    return found | {'end': f'{most:,} rows are the most that are tried'}


if __name__ == '__main__':
    cli.prepare_jax()
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
