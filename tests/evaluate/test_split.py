"""Whole-split evaluation with a generator whose outputs are known."""

import pytest

from xformer.config import Config, UserError, override
from xformer.data.tokenizers import train_tokenizers
from xformer.decode.generate import Output
from xformer.evaluate.inputs import encode_sources
from xformer.evaluate.scores import is_right
from xformer.evaluate.split import evaluate_pairs, examples_of, predict

CONFIG = override(Config(), {'data.tokenizer': 'char', 'data.target_tokenizer': 'word',
                             'data.lowercase_source': True, 'data.score_strip': '012',
                             'model.max_length': 6})
PAIRS = [('ab', 'AH0 B'), ('b', 'B IY1'), ('ab', 'EY1 B IY1'), ('a', 'EY1')]
ANSWERS = {'ab': 'EY0 B IY0', 'b': 'B', 'a': 'EY1'}
TOKENIZERS = train_tokenizers(CONFIG.data, [*PAIRS, *ANSWERS.items()])
EOS = TOKENIZERS.special.eos


def generator(sources, progress=lambda done: None):
    """Answers from the table, each with a second guess that is never to be scored."""
    texts = [TOKENIZERS.source.decode(ids) for ids in sources]
    assert all(ids[-1] == EOS for ids in sources)
    progress(len(sources))
    return [[Output([*TOKENIZERS.target.encode(ANSWERS[text]), EOS], -0.5),
             Output([*TOKENIZERS.target.encode('B B B'), EOS], -0.7)] for text in texts]


@pytest.mark.parametrize('kind', ['errors', 'exact'])
def test_references_of_a_source_are_grouped_in_order(kind):
    assert examples_of(PAIRS, override(CONFIG, {'data.score': kind})) == [
        ('ab', ['AH0 B', 'EY1 B IY1']), ('b', ['B IY1']), ('a', ['EY1'])]


@pytest.mark.parametrize('kind', ['bleu', 'bleu_tokenised', 'rouge'])
def test_published_scores_are_of_the_pairs_as_they_are(kind):
    config = override(CONFIG, {'data.score': kind, 'data.score_strip': ''})
    assert examples_of(PAIRS, config) == [(source, [target]) for source, target in PAIRS]
    _, predictions = evaluate_pairs(PAIRS, config, TOKENIZERS, generator)
    assert [row.source for row in predictions] == [source for source, _ in PAIRS]


def test_exact_match_by_hand():
    """Stress counts here: of ab, b and a only the last is a reference."""
    config = override(CONFIG, {'data.score': 'exact', 'data.score_strip': ''})
    rates, predictions = evaluate_pairs(PAIRS, config, TOKENIZERS, generator)
    assert rates == {'exact_match': pytest.approx(1 / 3)} and len(predictions) == 3


def test_rates_by_hand():
    """ab: EY B IY. b: B, one deletion of 2. a: EY. With stress ab has two wrong of 3."""
    rates, predictions = evaluate_pairs(PAIRS, CONFIG, TOKENIZERS, generator)
    assert rates == pytest.approx({
        'per': 1 / (3 + 2 + 1), 'wer': 1 / 3,
        # against the first only, ab is AH B: EY for AH, and IY too many
        'per_first': (2 + 1) / (2 + 2 + 1), 'wer_first': 2 / 3,
        # with stress, AH0 B and EY1 B IY1 are both 2 away from EY0 B IY0: the earlier one counts
        'per_marked': (2 + 1) / (2 + 2 + 1), 'wer_marked': 2 / 3,
        'per_marked_first': (2 + 1) / (2 + 2 + 1), 'wer_marked_first': 2 / 3})
    assert [tuple(row) for row in predictions] == [
        ('ab', 'EY0 B IY0', ['AH0 B', 'EY1 B IY1'], -0.5), ('b', 'B', ['B IY1'], -0.5),
        ('a', 'EY1', ['EY1'], -0.5)]


def test_characters_are_the_tokens_of_a_character_target():
    """kitten for sitting: 3 edits of 7; prediction and reference are cut into characters."""
    config = override(Config(), {'data.target_tokenizer': 'char'})
    tokenizers = train_tokenizers(config.data, [('x', 'kitten sitting')])

    def fixed(sources, progress):
        return [[Output([*tokenizers.target.encode('kitten'), EOS], 0.0)] for _ in sources]
    rates, _ = evaluate_pairs([('x', 'sitting')], config, tokenizers, fixed)
    assert rates['per'] == pytest.approx(3 / 7) and rates['wer'] == 1


def test_predictions_keep_order_and_all_of_the_n_best():
    seen = []
    sources = encode_sources(['b', 'A', 'ab'], CONFIG, TOKENIZERS)
    best = predict(sources, TOKENIZERS, generator, seen.append)
    assert [[text for text, _ in outputs] for outputs in best] == [
        ['B', 'B B B'], ['EY1', 'B B B'], ['EY0 B IY0', 'B B B']]
    assert [outputs[0][1].score for outputs in best] == [-0.5] * 3 and seen == [3]


def test_sources_are_prepared_and_end_in_eos():
    assert encode_sources(['AB', 'ab'], CONFIG, TOKENIZERS) == [
        [*TOKENIZERS.source.encode('ab'), EOS]] * 2


@pytest.mark.parametrize(('texts', 'message'), [
    (['a', ''], 'input 2 is empty'),
    (['abbab', 'a', 'bbbbbb'], r"input 3 \('bbbbbb'.*has 7 tokens.*takes 6")])
def test_sources_that_cannot_be_decoded_are_named(texts, message):
    with pytest.raises(UserError, match=message):
        encode_sources(texts, CONFIG, TOKENIZERS)


def test_what_is_too_long_is_cut_where_training_cut_it():
    config = override(CONFIG, {'data.too_long': 'cut'})
    whole = TOKENIZERS.source.encode('abbabab')
    assert encode_sources(['abbabab', 'abbab', 'abb'], config, TOKENIZERS) == [
        [*whole[:5], EOS], [*whole[:5], EOS], [*whole[:3], EOS]]
    with pytest.raises(UserError, match='input 1 is empty'):
        encode_sources([''], config, TOKENIZERS)


@pytest.mark.parametrize('too_long', ['error', 'drop'])
def test_without_cutting_what_is_too_long_is_refused(too_long):
    config = override(CONFIG, {'data.too_long': too_long})
    with pytest.raises(UserError, match='input 1 .*has 8 tokens.*takes 6'):
        encode_sources(['abbabab'], config, TOKENIZERS)


def test_right_is_what_the_word_error_rate_counts_as_right():
    rates, predictions = evaluate_pairs(PAIRS, CONFIG, TOKENIZERS, generator)
    right = [is_right(row.prediction, row.references, CONFIG.data) for row in predictions]
    assert right == [True, False, True]
    assert rates['wer'] == pytest.approx(1 - sum(right) / len(right))
