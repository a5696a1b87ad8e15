"""Every peer computes what ours does, at a tiny size, and a difference is an error."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the peers need PyTorch: the extra `parity`')
pytest.importorskip('transformers', reason='the peers need transformers: the extra `parity`')

from benchmarks import (  # noqa: E402
    decode,
    long,
    ours,
    products,
    train_bert,
    train_bf16,
    train_gpt,
    train_seq2seq,
    training,
    work,
)
from benchmarks.results import OURS  # noqa: E402
from xformer.config import override  # noqa: E402
from xformer.models import build, init_params  # noqa: E402

TINY = {'model.d_model': 32, 'model.num_heads': 2, 'model.d_ff': 48}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def sides(suite, config):
    return training.both(ours.without_dropout(config), suite.make_peer, ['eager'])


def test_sizes_that_take_pytorch_too_long_in_bfloat16_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(train_bf16, 'of_products', lambda layers, *shape: 10.0 * layers)
    monkeypatch.setattr(train_bf16, 'PATIENCE', 50)
    monkeypatch.setattr(train_gpt, 'measure', lambda *given, sizes, **more: list(sizes))
    assert train_bf16.measure(1, []) == ['4 layers, 128 wide']
    assert '6 layers, 384 wide: left out, PyTorch' in capsys.readouterr().err


@pytest.mark.parametrize('suite, config, outside', [
    ('train-gpt, 6 layers, 384 wide', work.gpt_config(6, 384, 6, 256), 0),
    ('train-bert', work.bert_config('bert-mini', 128, 30_522), 256 * 30_522),
    ('embed', work.minilm_config(30_522), 0)])
def test_the_products_measured_have_every_kernel_of_the_blocks(suite, config, outside):
    params = jax.eval_shape(lambda: init_params(build(config), jax.random.key(0)))
    kernels = sum(leaf.size for path, leaf in jax.tree.leaves_with_path(params)
                  if 'layers' in str(path) and 'kernel' in str(path))
    assert sum(k * n for _, k, n in products.cases()[suite]) == kernels + outside


@pytest.mark.parametrize('dtype, tolerance', training.TOLERANCES.items())
def test_gpt2_makes_the_same_updates(dtype, tolerance):
    config = work.gpt_config(2, 32, 2, 16, dtype)
    training.parity(sides(train_gpt, config), work.gpt_batches(16, 4, 3), tolerance)


def test_bert_makes_the_same_updates():
    config = override(work.bert_config('bert-mini', 128, 300),
                      TINY | {'model.num_encoder_layers': 2})
    training.parity(sides(train_bert, config), work.bert_batches(24, 4, 3, 300))


def test_marian_makes_the_same_updates():
    config = override(work.TRANSLATION, TINY)
    batches = train_seq2seq.planned_batches(train_seq2seq.generated(2000))
    assert 0.9 < train_seq2seq.fill_of(batches) < 1
    training.parity(sides(train_seq2seq, config), [batches[0], batches[0]])


def test_other_weights_are_noticed():
    config = work.gpt_config(1, 32, 2, 16)
    different = sides(train_gpt, config) | {'other': train_gpt.make_peer(
        config, jax.device_get(ours.Ours(override(config, {'train.seed': 1})).state.params),
        'eager')}
    with pytest.raises(RuntimeError, match='of other differs'):
        training.parity(different, work.gpt_batches(16, 4, 1))


def test_sorted_batches_hold_every_pair_once_within_the_budget():
    pairs = train_seq2seq.generated(300)
    batches = train_seq2seq.sorted_batches(pairs, 512)
    assert all(batch['source_BS'].size + batch['labels_BT'].size <= 512 for batch in batches)
    lengths_N2 = np.concatenate([np.stack(
        [batch['source_lengths_B'], batch['target_lengths_B']], axis=1) for batch in batches])
    assert sorted(lengths_N2.tolist()) == sorted(pairs.lengths(0, 300).tolist())
    assert train_seq2seq.fill_of(batches) > 0.85


@pytest.mark.parametrize('config', [
    decode.gpt_config(2, 32, 2),
    override(decode.seq2seq_config(), TINY | {'decode.beam_size': 3})], ids=['greedy', 'beam'])
def test_both_sides_write_the_same_tokens(config, monkeypatch):
    monkeypatch.setattr(decode, 'NEW', 12)
    monkeypatch.setattr(decode, 'VOCAB_SIZE', 60)
    config = override(config, {'model.vocab_size': 60})
    cases = decode.compare_search(config, 3, ['eager'], 1.0, 1, 'tiny')
    assert cases['tiny']['parity'] == {'eager': {'tokens': 0.0}}
    assert cases['tiny']['amounts'][OURS] == 3 * 11


def test_attention_is_the_same(monkeypatch):
    case = long.compare_attention(40, ['sdpa'], 1, 'tiny')
    assert case['parity']['sdpa'].keys() == {
        'output', 'query gradient', 'key gradient', 'value gradient'}


def test_vectors_are_the_same(tmp_path):
    pytest.importorskip('sentence_transformers', reason='in the extra `parity`')
    from benchmarks import embed
    config = override(work.minilm_config(30_522), TINY | {
        'model.vocab_size': 300, 'model.num_encoder_layers': 2})
    texts = embed.sentences(40, 300)
    case = embed.compare_vectors(config, texts, ['batch-32'], 1, tmp_path)
    assert case['amounts'][OURS] == 40
    lengths = [len(text.split()) for text in texts]
    assert 5 <= min(lengths) < 15 < max(lengths) <= 120
