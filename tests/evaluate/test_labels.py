"""Guesses of heads and their scores, against brute force and the reference libraries."""

import itertools
import random
from dataclasses import replace

import jax
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import Config, DataConfig, UserError, override
from xformer.data.sources import Labelled
from xformer.data.tokenizers import train_tokenizers
from xformer.evaluate.labels import best_span, entities, guess, normal, score_labels, word_f1
from xformer.models import build, init_params

WORDS = 'an old hen sees the quick fox by a river and waits there'.split()
LABELS = {'classify': ('no', 'yes'), 'tag': ('B-x', 'I-x', 'O'), 'regress': (),
          'answer': ('no answer',)}


def texts(count, longest, seed):
    rng = random.Random(seed)
    return [' '.join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope='module', params=LABELS)
def asked(request):
    """(kind, examples, ask): ask(examples) gives the guesses of a random model."""
    kind = request.param
    data = DataConfig(objective=kind, tokenizer='wordpiece', vocab_size=60)
    tokenizers = replace(train_tokenizers(data, [(' '.join(WORDS),)] * 3), labels=LABELS[kind])
    config = override(Config(), {
        'data.objective': kind, 'model.family': 'encoder', 'model.num_encoder_layers': 1,
        'model.num_decoder_layers': 0, 'model.d_model': 16, 'model.num_heads': 2,
        'model.d_ff': 16, 'model.max_length': 40, 'model.num_segments': 2, 'model.init': 'bert',
        'model.vocab_size': tokenizers.vocab_size, 'model.num_labels': len(LABELS[kind])})
    model = build(config)
    params = jax.tree.map(lambda x: 8 * x, init_params(model, jax.random.key(0)))
    compilations = Compilations()

    def ask(examples, labels=tokenizers.labels, **options):
        return guess(examples, override(config, options), model, params,
                     replace(tokenizers, labels=labels), compilations)
    second = texts(9, 70, 2) if kind == 'answer' else ['', *texts(8, 8, 2)]
    if kind in ('tag', 'regress'):
        second = [''] * 9
    return kind, [Labelled(*pair, '') for pair in zip(texts(9, 6, 1), second)], ask


def test_together_and_alone_are_the_same_and_outputs_vary(asked):
    kind, examples, ask = asked
    together = ask(examples)
    assert len({repr(each) for each in together}) > 3
    for i in (0, 4):
        [alone] = ask(examples[i:i + 1])
        for name, value in alone.items():
            other = together[i][name]
            assert other == pytest.approx(value, abs=1e-5) if not isinstance(
                value, str | list) else other == value


def test_what_a_guess_says_is_consistent(asked):
    kind, examples, ask = asked
    for example, each in zip(examples, ask(examples)):
        if kind == 'classify':
            assert sum(each['scores'].values()) == pytest.approx(1, abs=1e-5)
            assert each['scores'][each['label']] == max(each['scores'].values())
        elif kind == 'tag':
            words = example.first.split()
            assert len(each['tags']) == len(words)
            for entity in each['entities']:
                start, stop = entity['words']
                assert entity['text'] == ' '.join(words[start:stop])
                assert all(tag != 'O' for tag in each['tags'][start:stop])
        elif kind == 'answer' and each['start'] >= 0:
            start = each['start']
            assert example.second[start:start + len(each['answer'])] == each['answer'] != ''


def test_too_long_is_refused_or_cut(asked):
    kind, _, ask = asked
    long = Labelled(' '.join(WORDS * 9), 'a hen' if kind == 'answer' else '', '')
    with pytest.raises(UserError, match='beyond model.max_length=40'):
        ask([long])
    [cut] = ask([long], **{'data.too_long': 'cut'})
    if kind == 'tag':
        assert len(cut['tags']) == len(long.first.split()) and set(cut['tags'][50:]) == {'O'}


def test_a_number_is_in_the_units_of_the_training_data(asked):
    kind, examples, ask = asked
    if kind == 'regress':
        plain, scaled = (ask(examples, labels=labels) for labels in ((), ('20000.0', '3.0')))
        assert [each['number'] for each in scaled] == pytest.approx(
            [20000 + 3 * each['number'] for each in plain], rel=1e-6)


def test_a_context_without_a_token_has_no_answer(asked):
    kind, examples, ask = asked
    if kind == 'answer':
        for labels in (LABELS[kind], ()):
            empty, other = ask([examples[0]._replace(second=''), examples[1]], labels=labels)
            assert empty == {'answer': '', 'start': -1, 'score': 0.0} and other['score'] != 0


def test_the_best_span_by_brute_force():
    rng = np.random.default_rng(0)
    for S in (1, 2, 9, 45):
        logits_2S = rng.normal(size=(2, S))
        wanted = max((logits_2S[0, i] + logits_2S[1, j], i, j)
                     for i, j in itertools.combinations_with_replacement(range(S), 2)
                     if j - i < 30)
        assert best_span(logits_2S) == pytest.approx(wanted)


def test_scores_of_answers_are_squads():
    assert normal('The  Cat, a  an-imal!') == ['cat', 'animal']
    assert word_f1('the black cat', 'a cat sat') == pytest.approx(2 * (1 / 2) * (1 / 2) / 1)
    assert word_f1('', '') == 1 and word_f1('cat', '') == 0 == word_f1('', 'cat')
    examples = [Labelled('q', 'c', [['a black cat', 0], ['cat', 8]]), Labelled('q', 'c', [])]
    metrics, floors = score_labels('answer', examples, [{'answer': 'Cat.'}, {'answer': 'dog'}])
    assert metrics == {'exact_match': 0.5, 'f1': 0.5} and floors['exact_match'] == 0.5


def squad_words(text: str) -> list[str]:
    """Rajpurkar et al. 2016, section 6.1, word by word: no articles, no punctuation, no case."""
    words = ''.join(c for c in text.casefold() if c.isalnum() or c.isspace()).split()
    return [word for word in words if word not in ('a', 'an', 'the')]


def test_scores_of_answers_by_crossing_out_words_on_random_texts():
    rng = random.Random(5)

    def text():
        return ' '.join(rng.choices(['The', 'a', 'an', 'cat', 'Cat,', 'mat.', '"dog"', '!'],
                                    k=rng.randint(0, 5)))
    examples = [Labelled('q', 'c', [[text(), 0] for _ in range(rng.randint(0, 3))])
                for _ in range(300)]
    guesses = [text() for _ in examples]
    exact, f1 = [], []
    for example, guess_ in zip(examples, guesses):
        scores = []
        for answer in [answer for answer, _ in example.target] or ['']:
            left, found = squad_words(answer), squad_words(guess_)
            total, both = len(left) + len(found), 0
            for word in found:
                if word in left:
                    left.remove(word)
                    both += 1
            scores.append((squad_words(answer) == found, 2 * both / total if total else 1))
        exact.append(max(score for score, _ in scores))
        f1.append(max(score for _, score in scores))
    metrics, _ = score_labels('answer', examples, [{'answer': each} for each in guesses])
    assert metrics == pytest.approx({'exact_match': np.mean(exact), 'f1': np.mean(f1)})
    assert 0.05 < metrics['exact_match'] < metrics['f1'] < 0.8


def test_scores_of_entities_by_sets_on_random_tags():
    rng = random.Random(6)

    def tags(length):
        found = []
        while len(found) < length:
            kind, size = rng.choice('xy'), rng.randint(1, 3)
            found += rng.choice([['O'] * size, [f'B-{kind}', *[f'I-{kind}'] * (size - 1)]])
        return found[:length]

    def spans(row, sequence):
        found, i = set(), 0
        while i < len(sequence):
            stop = i + 1
            while sequence[i] != 'O' and stop < len(sequence) and sequence[stop][0] == 'I':
                stop += 1
            found |= {(row, sequence[i][2:], i, stop)} if sequence[i] != 'O' else set()
            i = stop
        return found
    truth = [tags(rng.randint(1, 9)) for _ in range(80)]
    guessed = [each if rng.random() < 0.4 else tags(len(each)) for each in truth]
    right, said = (set().union(*(spans(row, each) for row, each in enumerate(rows)))
                   for rows in (truth, guessed))
    metrics, _ = score_labels('tag', [Labelled('', '', ' '.join(each)) for each in truth],
                              [{'tags': each} for each in guessed])
    both = len(right & said)
    assert metrics['precision'] == pytest.approx(both / len(said))
    assert metrics['recall'] == pytest.approx(both / len(right))
    assert metrics['f1'] == pytest.approx(2 * both / (len(right) + len(said)))
    assert 0.2 < metrics['f1'] < 0.9


def test_entities_are_whole_and_typed():
    assert entities('B-a I-a O B-b B-b'.split()) == [('a', 0, 2), ('b', 3, 4), ('b', 4, 5)]
    examples = [Labelled('w x y z', '', 'B-a I-a O B-b'), Labelled('v', '', 'O')]
    guesses = [{'tags': 'B-a O O B-b'.split()}, {'tags': ['O']}]  # one of two, and one too short
    metrics, floors = score_labels('tag', examples, guesses)
    assert metrics == pytest.approx({'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'accuracy': 0.8})
    assert floors['f1'] == 0


def test_other_ways_to_mark_entities():
    biluo, bioes = 'B-a L-a U-a U-a L-b B-b', 'B-a E-a S-a S-a E-b B-b'
    assert entities(biluo.split()) == entities(bioes.split())
    assert entities('B-a M-a E-a O S-b'.split()) == [('a', 0, 3), ('b', 4, 5)]
    assert [place for _, *place in entities('B M M E S'.split())] == [[0, 4], [4, 5]]
    assert entities('PER PER O ORG LOC O NOUN'.split()) == [
        ('PER', 0, 2), ('ORG', 3, 4), ('LOC', 4, 5), ('NOUN', 6, 7)]
    example = Labelled('a b c', '', 'ORG O PER')
    metrics, _ = score_labels('tag', [example], [{'tags': ['O', 'O', 'PER']}])
    assert (metrics['precision'], metrics['recall']) == (1.0, 0.5)


def test_a_token_without_an_embedding_is_refused(asked):
    _, examples, ask = asked
    with pytest.raises(UserError, match='a text has .*, of which the model has no embedding'):
        ask(examples, **{'model.vocab_size': 6})


def test_classes_and_numbers_by_their_formulas():
    rng = random.Random(3)
    targets = [rng.choice('aab') for _ in range(60)]
    labels = [target if rng.random() < 0.7 else rng.choice('ab') for target in targets]
    metrics, floors = score_labels('classify', [Labelled('', '', target) for target in targets],
                                   [{'label': label} for label in labels])
    tp, fp, fn, tn = (sum((t == 'a') is p and (g == 'a') is q for t, g in zip(targets, labels))
                      for p, q in ((True, True), (False, True), (True, False), (False, False)))
    assert metrics['accuracy'] == pytest.approx((tp + tn) / 60)
    assert metrics['micro_f1'] == pytest.approx(2 * (tp + tn) / (2 * (tp + tn) + 2 * (fp + fn)))
    assert metrics['f1_a'] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert metrics['matthews'] == pytest.approx((tp * tn - fp * fn) / np.sqrt(
        (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert floors['accuracy'] == targets.count('a') / 60 and floors['matthews'] == 0

    x, y = ([rng.random() for _ in range(40)] for _ in range(2))
    metrics, floors = score_labels('regress', [Labelled('', '', str(target)) for target in y],
                                   [{'number': number} for number in x])
    assert metrics['pearson'] == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [np.argsort(np.argsort(each)) for each in (x, y)]
    assert metrics['spearman'] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert metrics['rmse'] ** 2 == pytest.approx(np.mean((np.array(x) - y) ** 2))
    assert floors['rmse'] == pytest.approx(np.std(y))
