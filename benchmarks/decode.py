"""Suite decode: greedy and beam search with random weights, against transformers' `generate`.

Outputs never end early. Both sides must write the same tokens. `prefill` is all that comes before
the second token: reading the prompt or encoding the source, and one token; the rate of the others
is over the rest of the time. `roofline` compares our rate at batch 1 with that of bare
matrix-vector products with the same weights, so its ratio is our share of the machine's own limit.
"""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import CompileConfig

from benchmarks.huggingface import gpt2, marian
from benchmarks.ours import writer
from benchmarks.parity import announce, check_same
from benchmarks.results import OURS, case
from benchmarks.timing import alternate, cpus
from xformer.config import Config, override, to_flat
from xformer.models import build, init_params
from xformer.presets import preset

PROMPT, NEW = 16, 200  # tokens; the prompt's BOS included
VOCAB_SIZE = 8000
SPECIAL = {'model.vocab_size': VOCAB_SIZE, 'model.pad_id': 0, 'model.bos_id': 1,
           'model.eos_id': 2, 'model.layers': 'unroll'}
LARGE, SMALL = (6, 384, 6), (4, 128, 4)  # layers, width, heads
ROOFLINE_BAR = 0.6


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite. Raises RuntimeError where the two sides write different tokens."""
    torch.set_num_threads(cpus())
    cases = {}
    for size, bar in ((LARGE, 1.5), (SMALL, 3.0)):
        for batch in (1, 8):
            title = f'GPT {size[0]} layers, {size[1]} wide, batch {batch}'
            cases |= compare_search(gpt_config(*size), batch, peers, bar, repeats, title)
    cases |= compare_search(seq2seq_config(), 8, peers, 3.0, repeats,
                            'Transformer 3 + 3 layers, 256 wide, beam 4, batch 8')
    return cases


def gpt_config(layers: int, width: int, heads: int) -> Config:
    """GPT-2's architecture, decoding greedily."""
    return override(preset('gpt2'), SPECIAL | {
        'model.num_decoder_layers': layers, 'model.d_model': width, 'model.num_heads': heads,
        'model.d_ff': 4 * width, 'model.max_length': 256, 'data.objective': 'lm',
        'decode.beam_size': 1, 'decode.max_new_tokens': NEW, 'decode.min_length': PROMPT - 1 + NEW})


def seq2seq_config() -> Config:
    """The original architecture, decoding with a beam of 4."""
    return override(Config(), SPECIAL | {
        'model.num_encoder_layers': 3, 'model.num_decoder_layers': 3, 'model.d_model': 256,
        'model.num_heads': 4, 'model.d_ff': 1024, 'model.max_length': 256,
        'model.norm_epsilon': 1e-5, 'decode.beam_size': 4, 'decode.length_penalty': 'length',
        'decode.alpha': 1.0, 'decode.max_length': NEW, 'decode.min_length': NEW})


def compare_search(config: Config, batch: int, peers: Iterable[str], bar: float, rounds: int,
                   title: str) -> dict:
    """The cases of one model: decoding, its prefill and, of one large GPT's row, its roofline."""
    announce(title)
    decoder = config.model.family == 'decoder'
    params = init_params(build(config), jax.random.key(config.train.seed))
    ids_BP = np.random.default_rng(0).integers(3, VOCAB_SIZE, (batch, PROMPT))
    ids_BP[:, 0 if decoder else -1] = config.model.bos_id if decoder else config.model.eos_id
    writers = {OURS: writer(config, params, ids_BP, (1, NEW))}
    for peer in peers:
        writers[peer] = theirs(config, jax.device_get(params), ids_BP, peer)
    expected_BT = writers[OURS](NEW)
    found = {'config': to_flat(config), 'parity': {
        peer: {'tokens': check_same(f'what {peer} writes', expected_BT, writers[peer](NEW))}
        for peer in peers}}

    works = {(side, tokens): partial(write, tokens) for side, write in writers.items()
             for tokens in (1, NEW)}
    if decoder and batch == 1 and config.model.d_model == LARGE[1]:
        works['roofline', NEW] = matrix_vector_chain(params, config)
    seconds = alternate(works, rounds, title)
    prefill = [{side: row[side, 1] for side in writers} for row in seconds]
    rest = [{side: row[side, NEW] - row[side, 1] for side in writers} for row in seconds]
    tokens = dict.fromkeys(writers, batch * (NEW - 1))
    cases = {title: found | case(rest, tokens, 'tokens/s', bar),
             f'{title}, prefill': case(prefill, dict.fromkeys(writers, batch * PROMPT),
                                       'prompt tokens/s', None)}
    if ('roofline', NEW) in works:
        cases['roofline'] = case(
            [{OURS: own[OURS], 'matrix-vector products': row['roofline', NEW]}
             for own, row in zip(rest, seconds)],
            {OURS: NEW - 1, 'matrix-vector products': NEW}, 'tokens/s', ROOFLINE_BAR)
    return cases


def theirs(config: Config, params: dict, ids_BP: np.ndarray, peer: str,
           device: str = 'cpu') -> Callable[[int], np.ndarray]:
    """(tokens to write) -> ids_BT, by `generate`: eager with a growing cache, or compiled with a
    static one."""
    decoder = config.model.family == 'decoder'
    model = (gpt2 if decoder else marian)(config.model, params).eval().to(device)
    if config.model.dtype == 'bfloat16':
        model = model.to(torch.bfloat16)
    inputs = torch.from_numpy(ids_BP).to(device)
    how = {'attention_mask': torch.ones_like(inputs), 'do_sample': False,
           'num_beams': config.decode.beam_size}
    if not decoder:
        how |= {'early_stopping': True, 'length_penalty': config.decode.alpha}
    if peer == 'compile':
        how |= {'cache_implementation': 'static'}
        if device == 'cpu':  # elsewhere generate compiles by itself, in the way it finds best
            how |= {'compile_config': _compiled_on_the_cpu()}
        if config.decode.beam_size > 1:  # where generate compiles nothing by itself
            model.forward = torch.compile(model.forward)

    def write(tokens: int) -> np.ndarray:
        with torch.inference_mode():
            ids_BT = model.generate(inputs, max_new_tokens=tokens, **how)
        return ids_BT[:, -tokens:].cpu().numpy()
    return write


def _compiled_on_the_cpu() -> CompileConfig:
    config = CompileConfig(fullgraph=False, mode='default', dynamic=False)
    config._compile_all_devices = True  # else generate compiles on accelerators alone
    return config


def matrix_vector_chain(params: dict, config: Config) -> Callable[[], None]:
    """NEW times, one after the other, the product of a vector with every matrix of the model."""
    attention, feed_forward = (params['decoder']['layers'][name]
                               for name in ('self_attention', 'feed_forward'))
    layers = [[linear['kernel'][index] for linear in (*(
        attention[name] for name in ('query', 'key', 'value', 'out')),
        feed_forward['up'], feed_forward['down'])]
        for index in range(config.model.num_decoder_layers)]
    matrices = [*sum(layers, []), params['embedding'].T]

    @jax.jit
    def chain(matrices, x_1D):
        def token(_, x_1D):
            for matrix in matrices:
                x_1D = x_1D @ matrix
            x_1D = x_1D[:, :config.model.d_model]
            return x_1D / jnp.linalg.norm(x_1D)
        return jax.lax.fori_loop(0, NEW, token, x_1D)

    x_1D = jnp.ones((1, config.model.d_model))
    return lambda: chain(matrices, x_1D).block_until_ready()
