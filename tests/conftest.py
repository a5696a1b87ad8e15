"""Strict arithmetic, four simulated devices, and a cache of its own for every test session."""

import functools
import os
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
SHARED_DATA = Path(__file__).parents[2] / 'shared' / 'data'
if 'XFORMER_DATA' not in os.environ and SHARED_DATA.is_dir():
    os.environ['XFORMER_DATA'] = str(SHARED_DATA)

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_disable_most_optimizations', True)  # LLVM would take most of the time
if jax.__version_info__ < (0, 11):  # a later XLA refuses what it does not know
    os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')  # half of the rest


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    """$XFORMER_CACHE for this session, so that nothing of the user's is read or written."""
    folder = tmp_path_factory.mktemp('cache')
    os.environ['XFORMER_CACHE'] = str(folder)
    return folder


@pytest.fixture(scope='module', autouse=True)
def compiled_programs():
    """Dropped after the module with which they take 3 GB: all together they take several times
    as much, and modules share many."""
    yield
    pages = Path('/proc/self/statm')  # where there is no /proc, they are dropped every time
    if not pages.exists() or int(pages.read_text().split()[1]) * resource.getpagesize() > 3e9:
        jax.clear_caches()


@pytest.fixture(scope='session')
def random_like():
    """shapes -> parameters none of which is at its initial zero or one."""
    import numpy as np

    def leaf(path, shape):
        values = np.random.default_rng(shape.size).normal(0, 0.3, shape.shape)
        return np.asarray(values + (path[-1].key == 'scale'), np.float32)
    return lambda shapes: jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.fixture(scope='session')
def small(random_like):
    """small('encoder'): config, tokenizers, model and params of a small model with random ones.

    Four layers (two in the decoder of 'seq2seq') over the letters a to h and the space. A
    'classifier' is an encoder with a head and segments.
    """
    from xformer.checks import validate
    from xformer.config import Config, override
    from xformer.data.tokenizers import train_tokenizers
    from xformer.models import build, init_params
    layers = {'encoder': (4, 0), 'classifier': (4, 0), 'decoder': (0, 4), 'seq2seq': (4, 2)}
    settings = {
        'encoder': {'data.objective': 'mlm', 'data.format': 'lines', 'model.positions': 'learned',
                    'model.activation': 'gelu'},
        'classifier': {'model.family': 'encoder', 'data.objective': 'classify',
                       'model.num_labels': 2, 'model.num_segments': 2},
        'decoder': {'data.objective': 'lm', 'data.format': 'lines', 'model.positions': 'rotary',
                    'model.norm_position': 'pre'},
        'seq2seq': {'data.target_tokenizer': 'word', 'model.norm_position': 'pre'}}

    @functools.cache
    def small(family: str) -> SimpleNamespace:
        config = override(Config(), {
            'model.family': family, 'model.num_encoder_layers': layers[family][0],
            'model.num_decoder_layers': layers[family][1], 'model.d_model': 16,
            'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 24,
            'data.train': 'text.txt', 'optim.schedule': 'constant',
            'optim.peak_learning_rate': 1e-3, **settings[family]})
        texts = [('abcdefgh ', 'A B C D')] if family == 'seq2seq' else [('abcdefgh ',)]
        tokenizers = train_tokenizers(config.data, texts)
        if family == 'classifier':
            tokenizers = replace(tokenizers, labels=('no', 'yes'))
        special = tokenizers.special
        config = override(config, {
            'model.vocab_size': tokenizers.vocab_size, 'model.pad_id': special.pad,
            'model.bos_id': special.bos, 'model.eos_id': special.eos})
        validate(config)
        model = build(config)
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        return SimpleNamespace(config=config, tokenizers=tokenizers, model=model,
                               params=random_like(shapes))
    return small
