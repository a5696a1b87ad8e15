"""Error rates: hand-computed examples, a naive edit distance, and properties on random words."""

import random
from functools import cache

import pytest

from xformer.evaluate.metrics import edit_distance, error_rates, score, strip_symbols


def naive_distance(a, b) -> int:
    """The recursive definition of Levenshtein's distance."""
    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1,
                   distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))
    return distance(len(a), len(b))


def words(seed: int, count: int = 40):
    """Predictions and, for each, one to three alternatives, often close to it or equal."""
    choose = random.Random(seed)
    symbols = ['AH0', 'AH1', 'EH2', 'T', 'S']

    def tokens():
        return choose.choices(symbols, k=choose.randint(1, 6))

    references = [[tokens() for _ in range(choose.randint(1, 3))] for _ in range(count)]
    predictions = [choose.choice([tokens(), [], choose.choice(word), choose.choice(word)[1:]])
                   for word in references]
    return predictions, references


@pytest.mark.parametrize(('a', 'b', 'distance'), [
    ('', '', 0), ('', 'abc', 3), ('abc', '', 3), ('kitten', 'sitting', 3),
    ('saturday', 'sunday', 3), ('abcd', 'bcde', 2), ('ab', 'ba', 2)])
def test_edit_distance_by_hand(a, b, distance):
    assert edit_distance(list(a), list(b)) == distance


def test_edit_distance_is_the_recursive_definition_and_a_metric():
    choose = random.Random(0)
    for _ in range(300):
        a, b, c = (tuple(choose.choices('xyz', k=choose.randint(0, 7))) for _ in range(3))
        assert edit_distance(a, b) == naive_distance(a, b) == edit_distance(b, a)
        assert (edit_distance(a, b) == 0) == (a == b)
        assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_tokens_are_compared_whole():
    assert edit_distance(['AH0', 'T'], ['AH1', 'T']) == 1
    assert edit_distance(['AHT'], ['AH', 'T']) == 2


def test_error_rates_by_hand():
    predictions = ['T EH S T'.split(), 'R EH D'.split(), []]
    references = [['T EH S T'.split()],
                  ['R IY D Z'.split(), 'R EH D'.split()],
                  ['AH'.split(), 'EY'.split()]]
    # any: edits 0 + 0 + 1 over 4 + 3 + 1 tokens; first: 0 + 2 + 1 over 4 + 4 + 1
    assert error_rates(predictions, references, 'any') == {'per': 1 / 8, 'wer': 1 / 3}
    assert error_rates(predictions, references, 'first') == {'per': 3 / 9, 'wer': 2 / 3}


def test_of_equally_near_alternatives_the_earliest_counts():
    # both are one edit away; their lengths, 1 and 3, tell which was taken
    assert error_rates([['a', 'b']], [[['a'], ['a', 'b', 'c']]], 'any')['per'] == 1
    assert error_rates([['a', 'b']], [[['a', 'b', 'c'], ['a']]], 'any')['per'] == 1 / 3


def test_any_can_have_the_higher_per():
    references = [['abcdefghij', 'axyz']]  # 5 and 4 edits away, 10 and 4 tokens long
    assert error_rates(['abcde'], references, 'first')['per'] == 5 / 10
    assert error_rates(['abcde'], references, 'any')['per'] == 4 / 4


@pytest.mark.parametrize('seed', range(5))
def test_rates_of_random_words_match_a_recount(seed):
    predictions, references = words(seed)
    for refs in ('any', 'first'):
        allowed = [word if refs == 'any' else [word[0]] for word in references]
        chosen = [sorted(word, key=lambda reference, p=p: naive_distance(p, reference))[0]
                  for p, word in zip(predictions, allowed, strict=True)]  # sorting is stable
        edits = sum(map(naive_distance, predictions, chosen))
        wrong = sum(p not in word for p, word in zip(predictions, allowed, strict=True))
        rates = error_rates(predictions, references, refs)
        assert rates == {'per': edits / sum(map(len, chosen)), 'wer': wrong / len(predictions)}


@pytest.mark.parametrize('seed', range(5))
def test_more_alternatives_never_mean_more_edits_or_wrong_words(seed):
    predictions, references = words(seed)
    rates = {refs: error_rates(predictions, references, refs) for refs in ('any', 'first')}
    assert rates['any']['wer'] <= rates['first']['wer']
    # references of one length: now per compares edits
    equal = [[(tokens * 6)[:6] for tokens in word] for word in references]
    rates = {refs: error_rates(predictions, equal, refs) for refs in ('any', 'first')}
    assert rates['any']['per'] <= rates['first']['per']


def test_empty_predictions_are_all_wrong():
    assert error_rates([[], []], [[['a']], [['b', 'c']]], 'any') == {'per': 1.0, 'wer': 1.0}


def test_an_empty_reference_can_be_right_or_wrong():
    assert error_rates([[], ['a']], [[[]], [['a']]], 'any') == {'per': 0.0, 'wer': 0.0}
    assert error_rates([['b'], ['a']], [[[]], [['a']]], 'any') == {'per': 1.0, 'wer': 0.5}


@pytest.mark.parametrize(('predictions', 'references', 'refs'), [
    ([], [], 'any'), ([['a']], [], 'any'), ([['a']], [[]], 'any'), ([['a']], [[]], 'first'),
    ([[]], [[[]]], 'any'), ([['a']], [[['a']]], 'all')])
def test_what_has_no_rate_is_refused(predictions, references, refs):
    with pytest.raises(ValueError):
        error_rates(predictions, references, refs)


def test_strip_symbols():
    assert strip_symbols(['HH', 'AH0', 'L', 'OW1'], '012') == ['HH', 'AH', 'L', 'OW']
    assert strip_symbols(['ˈ', 'k', 'aˈt', 'ˌ'], 'ˈˌ') == ['k', 'at']
    assert strip_symbols(['a1'], '') == ['a1']
    assert strip_symbols([], '012') == []


def test_score_by_hand():
    predictions = ['AH0 B AW1 T'.split(), 'R EH2 D'.split()]
    references = [['AH0 B AW1 T'.split()], ['R IY1 D'.split(), 'R EH1 D'.split()]]
    assert score(predictions, references, '012') == {
        'per': 0.0, 'wer': 0.0,
        'per_first': 1 / 7, 'wer_first': 1 / 2,
        'per_marked': 1 / 7, 'wer_marked': 1 / 2,
        'per_marked_first': 1 / 7, 'wer_marked_first': 1 / 2}
    assert score(predictions, references, '') == {
        'per': 1 / 7, 'wer': 1 / 2, 'per_first': 1 / 7, 'wer_first': 1 / 2}


def test_disregarding_marks_never_makes_a_word_wrong():
    for seed in range(5):
        rates = score(*words(seed), '012')
        assert rates['wer'] <= rates['wer_marked']
        assert rates['wer_first'] <= rates['wer_marked_first']
