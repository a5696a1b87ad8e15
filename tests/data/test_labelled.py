"""Labelled examples, from files to the arrays of a batch."""

import json
import random
import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from xformer.config import Config, DataConfig, UserError, override
from xformer.data.layouts import LAYOUTS, Encoded, cut_longer
from xformer.data.objectives import make_objective
from xformer.data.pipeline import prepare
from xformer.data.sources import Labelled, labelled, read_examples, split_of
from xformer.data.store import Column, TokenStore
from xformer.data.tokenizers import Special, train_tokenizers

SPECIAL = Special(pad=0, bos=1, eos=2, unk=3)
TEXTS = [('an unhappily unwise hen, by the river',), ('the hen-house is unhappy; the river',)] * 9
KINDS = ('char', 'word', 'bytes', 'bpe', 'unigram', 'wordpiece', 'byte_bpe')


@pytest.fixture(scope='module', params=KINDS)
def tokenizers(request):
    return train_tokenizers(DataConfig(objective='tag', tokenizer=request.param, vocab_size=330),
                            TEXTS)


def test_spans_are_the_ids_and_cover_every_letter_in_order(tokenizers):
    text = 'the hen,  unwise  by  é the house'
    ids, places = tokenizers.source.spans(text)
    assert list(ids) == tokenizers.source.encode(text) and len(places) == len(ids)
    assert all(a <= b for a, b in places) and list(places) == sorted(places)
    covered = {i for a, b in places for i in range(a, b)}
    assert covered >= {i for i, letter in enumerate(text) if not letter.isspace()}


def test_the_first_token_of_each_word_has_its_tag(tokenizers):
    text = 'the hen, unwise by a hen'
    [row] = LAYOUTS['tag'].encode([_row(text, '', 'O B O O O B')], _labelled(tokenizers))
    ids, second, targets = row.ids
    tagged = [i for i, target in enumerate(targets) if target >= 0]
    assert [('B', 'O')[targets[i]] for i in tagged] == 'O B O O O B'.split() and second == []
    for i, begin in zip(tagged, (0, 4, 9, 16, 19, 21)):  # of each word in the text
        before, after = tokenizers.source.spans(text).places[i]
        assert before <= begin < after
        assert i == 0 or tokenizers.source.spans(text).places[i - 1][1] <= begin


def test_the_tokens_of_an_answer_are_those_that_hold_its_letters(tokenizers):
    context, answer = 'a hen by the river, unhappily', 'the river'
    [row] = LAYOUTS['answer'].encode(
        [_row('by what', context, [[answer, context.index(answer)]])], tokenizers)
    first, last = row.ids[2]
    places = tokenizers.source.spans(context).places
    begin, end = context.index(answer), context.index(answer) + len(answer)
    assert places[first][0] <= begin < places[first][1]
    assert places[last][0] < end <= places[last][1]
    assert LAYOUTS['answer'].encode([_row('q', context, [])], tokenizers)[0].ids[2] == [-1, -1]


def _row(*parts):
    [row] = LAYOUTS['tag'].rows([Labelled(*parts)])
    return row


def _labelled(tokenizers):
    return replace(tokenizers, labels=('B', 'O'))


def test_the_longer_text_is_cut_a_token_at_a_time():
    rng = random.Random(0)
    for _ in range(300):
        a, b = ([rng.random() for _ in range(rng.randint(1, 12))] for _ in range(2))
        most = rng.randint(6, 20)
        first, second = list(a), list(b)
        while len(first) + len(second) > most - 3:  # BERT's own rule
            (first if len(first) > len(second) else second).pop()
        if len(a) + len(b) + 3 > most:
            assert cut_longer(Encoded([a, b, [0]], True), most).ids == [first, second, [0]]
    tagged = cut_longer(Encoded([[5, 6, 7, 8], [], [0, -1, 1, 0]], True), 5)
    assert tagged.ids == [[5, 6, 7], [], [0, -1, 1]]


def column(rows, dtype='<u2'):
    return Column(np.concatenate([np.array(row, dtype) for row in rows]),
                  np.cumsum([0, *map(len, rows)]))


def objective_of(kind, rows, between=1, **options):
    """Over (first, second, target) rows of ids."""
    first, second, target = zip(*rows)
    store = TokenStore({'first': column(first), 'second': column(second),
                        'target': column(target, LAYOUTS[kind].dtypes['target'])}, None, {})
    config = override(Config(), {'data.objective': kind, **options})
    return make_objective(config, store, type('Tokens', (), {
        'special': SPECIAL, 'between': between}))


@pytest.mark.parametrize('kind, between', [
    ('classify', 1), ('regress', 1), ('tag', 1), ('classify', 2)])
def test_rows_hold_bos_the_texts_and_their_ends(kind, between):
    rng = np.random.default_rng(1)
    rows = []
    for n, m in [(1, 0), (5, 3), (4, 0), (2, 6)]:
        first, second = rng.integers(4, 90, n).tolist(), rng.integers(4, 90, m).tolist()
        target = {'classify': [n % 3], 'regress': [n / 4], 'tag': rng.integers(-1, 5, n).tolist()}
        rows.append((first, second, target[kind]))
    objective = objective_of(kind, rows, between)
    assert len(objective) == 4
    indices = np.array([3, 0, 1])
    batch = objective.batch(indices, (4, 12, 0), np.random.default_rng(0))
    for i, index in enumerate(indices):
        first, second, target = rows[index]
        ids = [1, *first, *([2] * between + second if second else []), 2]
        assert batch['inputs_BS'][i].tolist() == ids + [0] * (12 - len(ids))
        assert batch['lengths_B'][i] == len(ids) == objective.lengths(index, index + 1)[0, 0]
        types = ([0] * (len(first) + 1 + between) + [1] * (len(second) + 1) if second else
                 [0] * len(ids))
        assert batch['types_BS'][i].tolist() == types + [0] * (12 - len(types))
        if kind == 'tag':
            assert batch['labels_BS'][i].tolist() == [-1, *target] + [-1] * (11 - len(target))
        else:
            assert batch['labels_B' if kind == 'classify' else 'numbers_B'][i] == target[0]
    assert batch['lengths_B'][3] == 0 and (batch['inputs_BS'][3] == 0).all()
    with pytest.raises(ValueError, match='do not fit'):
        objective.batch(indices, (4, 9, 0), np.random.default_rng(0))


@pytest.mark.parametrize('between', [1, 2])
def test_windows_cover_the_context_and_show_the_answer_where_it_is_whole(between):
    rng = np.random.default_rng(2)
    rows = []
    for size in (3, 20, 57, 9, 40):
        start = int(rng.integers(0, size - 2))
        rows.append((rng.integers(4, 90, 4).tolist(), list(range(100, 100 + size)),
                     [start, start + 1] if size != 9 else [-1, -1]))
    objective = objective_of('answer', rows, between, **{'model.max_length': 16 + between})
    seen, found = [set() for _ in rows], Counter()
    for window in range(len(objective)):
        slots = int(objective.lengths(window, window + 1)[0, 0])
        batch = objective.batch(np.array([window]), (1, slots, 0), np.random.default_rng(0))
        [example] = objective.examples(np.array([window]))
        ids, labels = batch['inputs_BS'][0], batch['labels_B2'][0]
        assert slots <= 16 + between and ids[0] == 1 and ids[-1] == 2
        assert (ids[5:5 + between] == 2).all() and ids[5 + between] != 2
        assert ids[1:5].tolist() == rows[example][0]
        seen[example] |= set(ids[5 + between:-1].tolist())
        first, last = rows[example][2]
        if labels.any():
            assert ids[labels].tolist() == [100 + first, 100 + last]
            found[int(example)] += 1
        else:
            assert example == 3 or not {100 + first, 100 + last} <= set(ids[6:].tolist())
    assert seen == [set(second) for _, second, _ in rows]
    assert found.keys() == {0, 1, 2, 4}  # a window is wider than twice any of these answers


def test_prepared_from_the_generated_corpus(tmp_path):
    sizes = {}
    for kind in ('classify', 'regress', 'tag', 'answer'):
        config = override(Config(), {'data.objective': kind, 'data.dataset': 'sentences',
                                     'data.tokenizer': 'word', 'model.max_length': 128})
        corpus = prepare(config)
        sizes[kind] = {name: len(store) for name, store in corpus.stores.items()}
        examples = list(read_examples(config.data, 'dev'))
        store, [i] = corpus.stores['dev'], [7]
        decode = corpus.tokenizers.source.decode
        assert decode(store.columns['first'][i]) == examples[i].first
        if kind == 'classify':
            assert corpus.tokenizers.labels == ('cat', 'dog', 'fox', 'hen', 'horse', 'mouse')
            assert corpus.tokenizers.labels[store.columns['target'][i][0]] == examples[i].target
        elif kind == 'regress':
            numbers = [float(each.target) for each in read_examples(config.data, 'train')]
            deviation = (float(examples[i].target) - statistics.mean(numbers)) / statistics.pstdev(
                numbers)
            assert store.columns['target'][i][0] == pytest.approx(deviation, rel=1e-5)
        elif kind == 'tag':
            tags = [corpus.tokenizers.labels[t] for t in store.columns['target'][i]]
            assert tags == examples[i].target.split()
        else:
            assert corpus.tokenizers.labels == ('no answer',)
            for row in range(len(store)):
                first, last = store.columns['target'][row]
                answers = [text for text, _ in examples[row].target]
                words = store.columns['second'][row][first:last + 1] if first >= 0 else []
                assert decode(words) == ''.join(answers)
    assert sizes['classify'] == sizes['regress'] == sizes['answer']


def test_some_examples_of_each_label_whatever_their_order(tmp_path):
    rows = [(f'text {i}', ('a', 'b', 'b')[i % 3]) for i in range(300)]

    def chosen(rows, count):
        (tmp_path / 'train.tsv').write_text(''.join(f'{t}\t{y}\n' for t, y in rows))
        data = DataConfig(objective='classify', train=str(tmp_path / 'train.tsv'),
                          per_label=count)
        return [(e.first, e.target) for e in read_examples(data, 'train')]
    ten = chosen(rows, 10)
    assert Counter(y for _, y in ten) == {'a': 10, 'b': 10} and set(ten) < set(rows)
    assert set(chosen(rows[::-1], 10)) == set(ten) and set(chosen(rows, 11)) > set(ten)
    with pytest.raises(UserError, match="examples of the label 'a'; choose at most that"):
        chosen(rows, 200)


GOOD = {
    'labels.tsv': (labelled.read_tsv_labels, 'a b\tyes\nc\tno\n',
                   [('a b', '', 'yes'), ('c', '', 'no')]),
    'pairs.tsv': (labelled.read_tsv_labels, 'a\tb\t1\n', [('a', 'b', '1')]),
    'labels.jsonl': (labelled.read_json_labels, '{"text": "a", "label": 0}\n'
                     '{"first": "a", "second": "b", "label": "x"}\n',
                     [('a', '', '0'), ('a', 'b', 'x')]),
    'tags.conll': (labelled.read_conll, '-DOCSTART- O\n\nBonn\tNNP\tB-x\n.\t.\tO\n\n\n# CD O\n',
                   [('Bonn .', '', 'B-x O'), ('#', '', 'O')]),
    'tags.conllu': (labelled.read_conll, '# newdoc id = 1\n# text = Bonn .\n1\tBonn\tX\n\n'
                    '#begin document (a); part 000\n2\t.\tx\tO\n#end document\n',
                    [('1', '', 'X'), ('2', '', 'O')]),
    'tags.jsonl': (labelled.read_json_tags, '{"words": ["a", "b"], "tags": ["O", "X"]}\n',
                   [('a b', '', 'O X')]),
    'answers.jsonl': (labelled.read_json_answers,
                      '{"question": "q?", "context": "a b a", "answers": [{"text": "a", '
                      '"start": 4}]}\n{"question": "r", "context": "c", "answers": []}\n'
                      '{"question": "s", "context": "c d", "answers": {"text": ["d", "c"], '
                      '"answer_start": [2, 0]}}\n',
                      [('q?', 'a b a', [['a', 4]]), ('r', 'c', []),
                       ('s', 'c d', [['d', 2], ['c', 0]])]),
    'squad.json': (labelled.read_squad, json.dumps({'data': [{'paragraphs': [{
        'context': 'x y', 'qas': [{'question': 'q', 'answers': [{'text': 'y', 'answer_start': 2}]},
                                  {'question': 'r', 'answers': [], 'is_impossible': True}]}]}]}),
        [('q', 'x y', [['y', 2]]), ('r', 'x y', [])]),
}
BAD = [
    (labelled.read_tsv_labels, 'a\tb\nc\td\te\n', ':2 has 2 tabs'),
    (labelled.read_tsv_labels, 'a\n', ':1 has 0 tabs'),
    (labelled.read_tsv_labels, 'a\t \n', ':1 has an empty text or label'),
    (labelled.numbers(labelled.read_tsv_labels), 'a\t1\nb\tinf\n', "example 2 of .* 'inf'"),
    (labelled.numbers(labelled.read_tsv_labels), 'a\tgood\n', 'no number'),
    (labelled.read_json_labels, '{"text": "a"}\n', ':1 must be JSON like'),
    (labelled.read_json_labels, '[1]\n', ':1 must be JSON like'),
    (labelled.read_json_labels, '{"text": "a", "label": true}\n', ':1 must be JSON like'),
    (labelled.read_json_labels, '{"text": "a", "label": ""}\n', ':1 must be JSON like'),
    (labelled.read_conll, 'word\n', ':1 must be word<TAB>tag'),
    (labelled.read_conll, 'a\tO\n10\u00a0000\tO\n', ':2 must be word<TAB>tag'),
    (labelled.read_squad, '{"data": [{"paragraphs": [{"context": "c", "qas": ["q"]}]}]}',
     'is not SQuAD JSON'),
    (labelled.read_json_answers, '{"question": "q", "context": "c", "answers": [{"text": "c", '
     '"start": 1e999}]}\n', ':1 must have "answers"'),
    (labelled.read_json_answers, '{"question": "q", "context": "c"}\n', ':1 must have "answers"'),
    (labelled.read_squad, '{"data":' + '[' * 100_000, 'is not SQuAD JSON'),
    (labelled.read_conll, 'a\tNN\tO\nb\tO\n', ':2 has 2 columns, the lines before it 3'),
    (labelled.read_conll, 'a\tO\rb\tO\r', 'ends its lines with CR alone'),
    (labelled.read_tsv_labels, 'sentence\tlabel\ngood\t1\n', ':1 looks like a line of headings'),
    (labelled.read_conll, '\n\n', 'is empty'),
    (labelled.read_json_tags, '{"words": ["a b"], "tags": ["O"]}\n', 'no spaces inside'),
    (labelled.read_json_tags, '{"words": ["a"], "tags": []}\n', 'as many tags as words'),
    (labelled.read_json_answers, '{"question": "q"}\n', ':1 must be JSON like'),
    (labelled.read_json_answers, '{"question": "q", "context": "abc", "answers": [{"text": "b", '
     '"start": 0}]}\n', ':1 has an answer that is not in its context'),
    (labelled.read_squad, '{"data": 3}', 'is not SQuAD JSON'),
]


@pytest.mark.parametrize('name', GOOD)
def test_formats(name, tmp_path):
    read, text, rows = GOOD[name]
    (tmp_path / name).write_text(text)
    assert [tuple(row) for row in read(tmp_path / name)] == rows


@pytest.mark.parametrize('read, text, sentence', BAD, ids=[case[2][:30] for case in BAD])
def test_faults_of_files_are_one_sentence(read, text, sentence, tmp_path):
    (tmp_path / 'bad').write_text(text)
    with pytest.raises(UserError, match=sentence):
        list(read(tmp_path / 'bad'))


def test_labels_are_those_of_the_whole_file_where_parts_of_it_are_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'cache'))
    rows = [(f'w{i} x', split_of(f'w{i} x')) for i in range(200)]
    (tmp_path / 'rows.tsv').write_text(''.join(f'{text}\t{label}\n' for text, label in rows))
    data = {'data.objective': 'classify', 'data.train': str(tmp_path / 'rows.tsv'),
            'model.family': 'encoder'}
    assert prepare(override(Config(), data)).tokenizers.labels == ('dev', 'test', 'train')
    (tmp_path / 'test.tsv').write_text('a\tnew\n')
    with pytest.raises(UserError, match="the label 'new' is not one of the training data"):
        prepare(override(Config(), data | {'data.test': str(tmp_path / 'test.tsv')}))


@pytest.mark.parametrize('name, kind, sizes, counted', [
    ('sst2', 'classify', (6920, 872, 1821), {'positive': 909}),
    ('mrpc', 'classify', (3576, 500, 1725), {'paraphrase': 1147}),
    ('reuters_r8', 'classify', (5305, 180, 2189), {'earn': 1083, 'grain': 10}),
    ('wnut17', 'tag', (3394, 1009, 1287), {'O': 21654}),
    ('cola', 'classify', (8551, 1043), {'acceptable': 719})])
def test_known_data_sets_have_their_published_sizes(name, kind, sizes, counted, shared_data):
    data = DataConfig(objective=kind, dataset=name)
    splits = [list(read_examples(data, split)) for split in ('train', 'dev', 'test')[:len(sizes)]]
    assert tuple(map(len, splits)) == sizes
    targets = Counter(target for example in splits[-1] for target in (
        example.target.split() if kind == 'tag' else [example.target]))
    assert counted.items() <= targets.items()
