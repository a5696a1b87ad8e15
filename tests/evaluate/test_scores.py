"""Scores: against sacrebleu and rouge-score used directly, the papers' formulas, and by hand."""

import math
import os
from collections import Counter
from pathlib import Path

import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from xformer.config import DataConfig, UserError
from xformer.evaluate import metrics
from xformer.evaluate.scores import (
    LEAD,
    detokenised,
    floor,
    is_right,
    plain,
    score,
    scored_tokens,
)

DATA = DataConfig()
HYPOTHESES = ['The cat sat on the mat.', 'A dog runs, quickly!', 'It is raining today in Paris']
REFERENCES = ['The cat is sitting on the mat.', 'A dog runs quickly!', 'Today it rains in Paris']
PIECES = ['ein klei@@ ner hund läuft über das feld', 'zwei frauen sit@@ zen im park']
PIECES_RIGHT = ['ein kleiner hund läuft über das grüne feld',
                'zwei frau@@ en sit@@ zen in einem park']


def brevity_and_precisions(hypotheses: list[str], references: list[str]) -> float:
    """BLEU of words between spaces, one reference each (Papineni et al. 2002, section 2.3)."""
    right, all_of_them = [0] * 4, [0] * 4
    for hypothesis, reference in zip(hypotheses, references):
        for n in range(1, 5):
            found, there = (Counter(zip(*(text.split()[i:] for i in range(n))))
                            for text in (hypothesis, reference))
            right[n - 1] += (found & there).total()
            all_of_them[n - 1] += found.total()
    c, r = (sum(len(text.split()) for text in texts) for texts in (hypotheses, references))
    precision = math.exp(sum(math.log(a / b) for a, b in zip(right, all_of_them)) / 4)
    return 100 * min(1.0, math.exp(1 - r / c)) * precision


def test_bleu_and_chrf_are_sacrebleus():
    found = score('bleu', HYPOTHESES, [[text] for text in REFERENCES], DATA)
    metric = BLEU()
    assert found == {'bleu': metric.corpus_score(HYPOTHESES, [REFERENCES]).score,
                     'chrf': CHRF().corpus_score(HYPOTHESES, [REFERENCES]).score,
                     'signature': str(metric.get_signature())}
    assert 0 < found['bleu'] < 100 and 'tok:13a' in found['signature']


def test_bleu_takes_as_many_references_as_each_prediction_has():
    references = [[REFERENCES[0], 'The cat sat on a mat.'], [REFERENCES[1]], [REFERENCES[2]]]
    streams = [REFERENCES, ['The cat sat on a mat.', None, None]]
    found = score('bleu', HYPOTHESES, references, DATA)
    assert found['bleu'] == BLEU().corpus_score(HYPOTHESES, streams).score
    assert found['bleu'] > score('bleu', HYPOTHESES, [[t] for t in REFERENCES], DATA)['bleu']


def test_bleu_of_words_already_cut_undoes_the_joints_and_nothing_else():
    joined, right = ([text.replace('@@ ', '') for text in texts]
                     for texts in (PIECES, PIECES_RIGHT))
    found = score('bleu_tokenised', PIECES, [[text] for text in PIECES_RIGHT], DATA)
    assert found['bleu'] == pytest.approx(brevity_and_precisions(joined, right))
    assert 0 < found['bleu'] < 100
    assert 'tok:none' in found['signature'] and 'tok:13a' in found['sacrebleu_signature']
    assert found['sacrebleu'] == BLEU().corpus_score(joined, [right]).score  # words alone


@pytest.mark.parametrize('tokens, text', [
    ('a man , a dog ( both wet ) .', 'a man, a dog (both wet).'),
    ('the man &apos;s hat says &quot; no dogs &quot; !', 'the man\'s hat says "no dogs"!'),
    ('50 % of it ; so : what ?', '50% of it; so: what?'), ('1 - 2', '1 - 2')])
def test_tokens_are_put_together_as_they_are_written(tokens, text):
    assert detokenised(tokens) == text


@pytest.mark.parametrize('name', ['test2016.de', 'test2016.en'])
def test_most_captions_are_put_together_as_in_the_raw_file(name):
    folder = Path(os.environ.get('XFORMER_DATA', '')) / 'multi30k_en_de'
    if not folder.is_dir():
        pytest.skip('no Multi30k')
    cut, raw = ((folder / kind / name).read_text().lower().splitlines() for kind in ('bpe', 'raw'))
    same = sum(detokenised(text.replace('@@ ', '')) == ' '.join(wanted.split())
               for text, wanted in zip(cut, raw, strict=True))
    assert same > 0.995 * len(raw)
    glued = ['one, two, three, four, five']  # commas stay on their words
    apart = [['one , two , three , four , five']]
    assert score('bleu_tokenised', glued, apart, DATA)['bleu'] < 10
    assert score('bleu', glued, apart, DATA)['bleu'] == pytest.approx(100)


def test_rouge_is_the_mean_of_the_librarys_f1_with_stemming():
    found = score('rouge', HYPOTHESES, [[text, 'never looked at'] for text in REFERENCES], DATA)
    kinds = ['rouge1', 'rouge2', 'rougeL']
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    for kind in kinds:
        each = [scorer.score(target, prediction)[kind].fmeasure
                for target, prediction in zip(REFERENCES, HYPOTHESES)]
        assert found[kind] == pytest.approx(100 * sum(each) / 3)
    assert found.keys() == set(kinds)


def test_rouge_by_hand():
    """'packages' and 'package' share a stem; order counts for all but ROUGE-1."""
    found = score('rouge', ['installs many packages'], [['many package installs']], DATA)
    assert found == pytest.approx({'rouge1': 100.0, 'rouge2': 50.0, 'rougeL': 100 * 2 / 3})


def test_rouge_of_other_scripts_counts_their_words():
    right = 'Премьер-министр прибыл в Берлин 5 мая'
    found = score('rouge', [right, 'абв 5'], [[right], [right]], DATA)
    assert found['rouge1'] == pytest.approx(100 * (1 + 2 * 1 / 9) / 2)
    assert found['rouge_words'] == 'of any script, not stemmed'
    assert score('rouge', ['東京 に'], [['東京へ']], DATA)['rouge1'] == pytest.approx(100 * 4 / 6)
    assert score('rouge', ['हिन्दी भाषा'], [['हिन्दी']], DATA)['rouge1'] == pytest.approx(200 / 3)
    assert 'rouge_words' not in score('rouge', ['für'], [['für alle']], DATA)


def test_exact_match_by_hand():
    assert score('exact', ['a b', 'c', 'd'], [['a b'], ['x', 'c'], ['D']], DATA) == {
        'exact_match': pytest.approx(2 / 3)}


def test_references_without_tokens_have_no_error_rates():
    data = DataConfig(tokenizer='word', score_strip='012')
    with pytest.raises(UserError, match="every reference is empty.*score_strip='012'.* --score"):
        score('errors', ['A'], [['01 2']], data)


def test_errors_are_the_error_rates_of_scored_tokens():
    data = DataConfig(target_tokenizer='word', score_strip='01')
    predictions, references = ['AH0 B', 'B'], [['AH1 B'], ['B IY1', 'K']]
    assert score('errors', predictions, references, data) == metrics.score(
        [text.split() for text in predictions],
        [[text.split() for text in texts] for texts in references], '01')
    letters = score('errors', ['kitten'], [['sitting']], DATA)
    assert letters['per'] == pytest.approx(3 / 7) and letters['wer'] == 1


@pytest.mark.parametrize(('source', 'target', 'tokens'), [
    ('char', '', ['a', 'b', ' ', 'c']), ('word', '', ['ab', 'c']), ('char', 'word', ['ab', 'c']),
    ('word', 'char', ['a', 'b', ' ', 'c']), ('bpe', '', ['ab', 'c']), ('bytes', '', ['ab', 'c'])])
def test_what_error_rates_count_follows_the_targets_tokenizer(source, target, tokens):
    assert scored_tokens('ab c', DataConfig(tokenizer=source, target_tokenizer=target)) == tokens


def test_right_disregards_marks_and_accepts_any_reference():
    data = DataConfig(target_tokenizer='word', score_strip='012')
    assert is_right('AH0 B', ['K', 'AH1 B'], data)
    assert not is_right('AH0 B', ['K', 'AH1 P'], data)
    assert not is_right('AH0 B', ['AH1 B'], DataConfig(target_tokenizer='word'))


def test_right_is_what_the_score_counts_and_of_graded_ones_nothing():
    exact = DataConfig(score='exact')
    assert is_right('a b', ['a b'], exact) and is_right('a b', ['a  b'], exact) is False
    assert score('exact', ['a b'], [['a  b']], exact)['exact_match'] == 0
    for graded in ('bleu', 'bleu_tokenised', 'rouge'):
        assert is_right('a', ['a'], DataConfig(score=graded)) is None


def test_the_floor_of_translations_is_copying_the_source():
    sources, references = ['ein Hund in Paris heute', 'ja'], [['a dog in Paris heute'], ['yes']]
    for kind in ('bleu', 'bleu_tokenised'):
        assert floor(kind, sources, references, DATA) == score(kind, sources, references, DATA)
    assert floor('bleu', ['a b c d'], [['a b c d']], DATA)['bleu'] == pytest.approx(100)


def test_the_floor_of_summaries_is_the_first_eight_words():
    text = 'one two  three four five six seven eight nine ten'
    assert LEAD == 8
    assert floor('rouge', [text], [['one two three four five six seven eight']], DATA) == \
        pytest.approx({'rouge1': 100.0, 'rouge2': 100.0, 'rougeL': 100.0})
    assert floor('rouge', [text], [['nine ten']], DATA)['rouge1'] == 0


@pytest.mark.parametrize('kind', ['errors', 'exact'])
def test_other_kinds_have_no_floor(kind):
    assert floor(kind, ['a'], [['a']], DATA) == {}


@pytest.mark.parametrize(('name', 'value', 'text'), [
    ('per', 0.1234, '12.34%'), ('wer_marked_first', 1.2, '120.00%'),
    ('exact_match', 1.0, '100.00%'), ('accuracy', 0.5, '50.00%'),
    ('dev/sequence_accuracy', 0.25, '25.00%'), ('bleu', 27.3141, '27.31'),
    ('rougeL', 7.5, '7.5'), ('nll', 0.123456, '0.1235'), ('perplexity', 1.5, '1.5'),
    ('signature', 'tok:13a', 'tok:13a'), ('per', '', '')])
def test_a_person_reads_rates_as_percentages_and_the_others_as_they_are(name, value, text):
    assert plain(name, value).strip() == text
