import itertools
from collections import Counter

import numpy as np
import objective_stores as stores
import pytest

from xformer.data.objectives.spans import random_composition
from xformer.data.tokenizers import Special

SPECIAL = Special(pad=5, bos=1, eos=2, unk=3, mask=4, sentinels=tuple(range(6, 46)))
FIRST, V = 46, 6000  # lowest ordinary id, vocabulary
DOCUMENTS = [[3, 4, 2], [9], [30, 1, 25], [1], [5, 5, 5, 5], [2, 17], [0], [150, 3]]


def text_store(documents):
    return stores.text_store(documents, FIRST, SPECIAL)


def build(name, store, word_starts_V=None, **options):
    starts_V = np.ones(V, bool) if word_starts_V is None else word_starts_V
    return stores.objective_of(name, store, SPECIAL, starts_V, **options)


def key(number):
    return np.random.Generator(np.random.Philox(key=number))


def batch_of(objective, indices=None, number=0):
    """A batch of these examples (all, if not given) with room to spare."""
    indices = np.arange(len(objective)) if indices is None else np.asarray(indices)
    S, T = objective.lengths(0, len(objective)).max(0).tolist()
    return objective.batch(indices, (len(indices) + 1, S + 2, T + 2 * (T > 0)), key(number))


def unmasked(batch):
    """The rows of a masked batch without padding, what was masked restored."""
    rows = []
    for inputs, length, columns, labels, count in zip(*(batch[name].tolist() for name in (
            'inputs_BS', 'lengths_B', 'masked_BP', 'masked_labels_BP', 'masked_lengths_B'))):
        assert sorted(set(columns[:count])) == columns[:count]
        assert columns[count:] == [0] * (len(columns) - count)
        assert labels[count:] == [SPECIAL.pad] * (len(labels) - count)
        assert inputs[length:] == [SPECIAL.pad] * (len(inputs) - length)
        for column, label in zip(columns[:count], labels):
            assert label >= FIRST  # never a special token
            inputs[column] = label
        rows.append(inputs[:length])
    return rows


def is_uniform(counts, cells):
    """Pearson's chi-square is within six standard deviations of its mean, over all cells."""
    observed = np.array([*counts.values(), *[0] * (cells - len(counts))])
    assert len(observed) == cells
    expected = observed.sum() / cells
    freedom = cells - 1
    return ((observed - expected) ** 2 / expected).sum() < freedom + 6 * np.sqrt(2 * freedom)


def pieces_of(documents, size, least=1):
    """Every chunk as the list of its ids, by plain Python."""
    position, pieces = FIRST, []
    for document in documents:
        n = sum(document)
        count = -(-n // size) if n >= least else 0
        cuts = [position + n * i // count for i in range(count + 1)] if count else []
        pieces += [list(range(*cut)) for cut in itertools.pairwise(cuts)]
        position += n + 1
    return pieces


# ---- masked tokens -------------------------------------------------------------------------

@pytest.mark.parametrize('length', [3, 10, 12, 64, 512])
@pytest.mark.parametrize('whole_words', [False, True])
def test_chunks_hold_every_token_of_the_text_once(length, whole_words):
    objective = build('mlm', text_store(DOCUMENTS), sequence_length=length, whole_words=whole_words)
    *rows, empty = unmasked(batch_of(objective))
    assert rows == [[SPECIAL.bos, *piece, SPECIAL.eos]
                    for piece in pieces_of(DOCUMENTS, length - 2)]
    assert empty == [] and max(map(len, rows)) <= length
    assert not batch_of(objective)['types_BS'].any()


@pytest.mark.parametrize('shares', [(0.8, 0.1), (1.0, 0.0), (0.0, 0.8), (0.0, 1.0)])
def test_share_and_fate_of_masked_tokens(shares):
    objective = build('mlm', text_store([[500]] * 10), sequence_length=102, mask_share=shares[0],
                      random_share=shares[1])
    pieces = pieces_of([[500]] * 10, 100)
    fates, others, columns = Counter(), [], Counter()
    for number in range(30):
        batch = batch_of(objective, number=number)
        assert [row[1:-1] for row in unmasked(batch)] == [*pieces, []]
        for inputs, masked, labels, length, count in zip(*(batch[name].tolist() for name in (
                'inputs_BS', 'masked_BP', 'masked_labels_BP', 'lengths_B', 'masked_lengths_B'))):
            assert count == round(0.15 * max(length - 2, 0))
            columns.update(masked[:count])
            for column, label in zip(masked[:count], labels):
                now = inputs[column]
                fate = 'mask' if now == SPECIAL.mask else 'same' if now == label else 'other'
                fates[fate] += 1
                if fate == 'other' and now:  # 0 is no special token here
                    assert FIRST <= now < V
                    others.append(now)
    total = fates.total()
    assert total == 30 * 50 * 15
    for fate, share in zip(('mask', 'other', 'same'), (*shares, 1 - sum(shares))):
        accidents = total * shares[1] / (V - FIRST) * (fate != 'mask')  # a token drawn for itself
        assert (abs(fates[fate] - share * total)
                <= 5 * np.sqrt(total * share * (1 - share)) + 2 * accidents)
    assert set(columns) == set(range(1, 101)) and is_uniform(columns, 100)
    assert shares[1] == 0 or is_uniform(
        Counter((other - FIRST) * 20 // (V - FIRST) for other in others), 20)


def test_special_tokens_within_a_text_are_never_masked():
    store = text_store([[40]])
    store.columns['text'].ids[[0, 7, 8, 30]] = SPECIAL.unk
    store.columns['text'].ids[12] = SPECIAL.sentinels[3]
    for number in range(50):
        batch = batch_of(build('mlm', store, noise_rate=0.9), number=number)
        assert batch['masked_lengths_B'].tolist() == [round(0.9 * 35), 0]
        restored = unmasked(batch)[0]
        assert restored[1:-1] == store.columns['text'].ids[:-1].tolist()
    store.columns['text'].ids[:-1] = SPECIAL.unk
    assert not batch_of(build('mlm', store))['masked_lengths_B'].any()


def test_whole_words_are_masked_whole_until_none_fits():
    starts_V = np.random.Generator(np.random.PCG64(3)).random(V) < 0.5
    objective = build('mlm', text_store([[400], [77]]), starts_V, sequence_length=102,
                      whole_words=True)
    firsts = Counter()
    for number in range(60):
        batch = batch_of(objective, number=number)
        for row, masked, count in zip(unmasked(batch)[:-1], batch['masked_BP'].tolist(),
                                      batch['masked_lengths_B'].tolist()):
            number_N, chosen = round(0.15 * (len(row) - 2)), set(masked[:count])
            words, left = [], number_N - count
            for column, token in enumerate(row[1:-1], 1):
                if starts_V[token] or not words:
                    words.append(set())
                words[-1].add(column)
            assert left >= 0
            for word in words:
                assert word <= chosen or (not word & chosen and len(word) > left)
            firsts.update(row[column] for column in chosen)
    # long words are rarer than short ones near the end of the budget, but none is left out
    assert len(firsts) == 477


def test_a_word_longer_than_the_share_is_cut():
    objective = build('mlm', text_store([[40]]), np.zeros(V, bool), whole_words=True)
    assert batch_of(objective)['masked_BP'][0].tolist()[:6] == [1, 2, 3, 4, 5, 6]
    assert batch_of(objective)['masked_lengths_B'].tolist() == [6, 0]


# ---- next sentence -------------------------------------------------------------------------

def test_next_sentence_is_the_rest_or_of_another_document():
    documents = [[4, 5, 6, 3], [7, 2], [9], [3, 3, 3, 3, 3], [1, 1]]
    store = text_store(documents)
    offsets, ids = store.columns['text'].offsets, store.columns['text'].ids
    document_of = {int(ids[i]): int(np.searchsorted(offsets[store.documents], i, 'right') - 1)
                   for i in range(len(ids)) if ids[i] >= FIRST}
    begins = set(ids[offsets[:-1]].tolist())
    objective = build('mlm_nsp', store, sequence_length=21)
    chunks = [piece for piece in pieces_of(documents, 18) if begins & set(piece[1:])]
    assert len(objective) == len(chunks) == 4
    assert objective.lengths(0, 4).tolist() == [[len(chunk) + 3, 0] for chunk in chunks]

    labels, cuts, starts, cut = Counter(), Counter(), Counter(), Counter()
    for number in range(600):
        batch = batch_of(objective, number=number)
        *rows, empty = unmasked(batch)
        assert empty == [] and batch['nsp_labels_B'][-1] == 0
        for r, (row, chunk) in enumerate(zip(rows, chunks)):
            first = row.index(SPECIAL.eos)
            a, b = row[1:first], row[first + 1:-1]
            assert row[0] == SPECIAL.bos and row[-1] == SPECIAL.eos
            assert a == chunk[:len(a)] and chunk[len(a)] in begins
            types = batch['types_BS'][r].tolist()
            assert types[:len(row)] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
            assert not any(types[len(row):])
            label = int(batch['nsp_labels_B'][r])
            labels[label] += 1
            cuts[r, len(a)] += 1
            if label == 0:
                assert a + b == chunk
            else:
                room, d = len(chunk) - len(a), document_of[b[0]]
                assert b[0] in begins and d != document_of[chunk[0]]
                assert b == list(range(b[0], b[0] + len(b)))
                assert {document_of[token] for token in b} == {d}
                rest = offsets[store.documents[d + 1]] - 1 - (b[0] - FIRST)
                limit = min(room, rest)
                ends = [n for n in range(1, limit + 1) if n == rest or b[0] + n in begins]
                ends_sentence = chunk[-1] + 1 in begins or chunk[-1] + 1 not in document_of
                assert len(b) == (ends[-1] if ends_sentence and ends else limit)
                could = any(size <= room for other, sizes in enumerate(documents)
                            if other != document_of[chunk[0]] for size in sizes)
                cut[ends_sentence and could] += len(b) not in ends
                if r == 0:
                    starts[b[0]] += 1
    assert cut[True] < 0.05 * labels[1] and cut[False] > 0  # cut only where nothing fits
    assert abs(labels[0] - 1200) < 5 * np.sqrt(600)
    assert is_uniform(Counter({cut: n for cut, n in cuts.items() if cut[0] == 0}), 3)
    assert len(starts) == 2 + 1 + 5 + 2  # every sentence of the others


def test_a_last_sentence_of_nothing_but_eos_gives_its_last_token_before():
    objective = build('mlm_nsp', text_store([[3, 3], [3, 0]]))
    assert len(objective) == 1
    seconds = Counter()
    for number in range(60):
        batch = batch_of(objective, number=number)
        if batch['nsp_labels_B'][0]:
            row = unmasked(batch)[0]
            seconds[tuple(row[row.index(SPECIAL.eos) + 1:-1])] += 1
    first = FIRST + 7  # the first token of the other document
    assert set(seconds) == {(first, first + 1, first + 2), (first + 2,)}


def test_sentences_cut_off_from_each_other_are_left_out():
    objective = build('mlm_nsp', text_store([[10, 10], [10, 4]]), sequence_length=13)
    assert len(objective) == 1  # the first is cut where its second sentence begins


# ---- spans ---------------------------------------------------------------------------------

def parse_spans(batch, row):
    """(the text that source and target tell together, visible spans, hidden spans)."""
    source = batch['source_BS'][row, :batch['source_lengths_B'][row]].tolist()
    target = batch['labels_BT'][row, :batch['target_lengths_B'][row]].tolist()
    assert source.pop() == target.pop() == SPECIAL.eos
    hidden, visible = [], [[]]
    for token in target:
        if token in SPECIAL.sentinels:
            assert token == SPECIAL.sentinels[len(hidden)]
            hidden.append([])
        else:
            hidden[-1].append(token)
    assert hidden.pop() == []  # the last sentinel only ends the last span
    for token in source:
        if token in SPECIAL.sentinels:
            assert token == SPECIAL.sentinels[len(visible) - 1]
            visible.append([])
        else:
            visible[-1].append(token)
    assert visible.pop() == [] and len(visible) == len(hidden)
    assert all(visible) and all(hidden)  # in turn, visible first
    text = [token for pair in zip(visible, hidden) for span in pair for token in span]
    return text, visible, hidden


@pytest.mark.parametrize('rate, mean_span', [(0.15, 3.0), (0.5, 1.0), (0.9, 2.0), (0.02, 10.0)])
@pytest.mark.parametrize('length', [5, 16, 200])
def test_source_and_target_together_tell_the_text(rate, mean_span, length):
    objective = build('spans', text_store(DOCUMENTS), sequence_length=length, noise_rate=rate,
                      mean_span=mean_span)
    lengths_N2 = objective.lengths(0, len(objective))
    assert lengths_N2.max() <= length
    seen = []
    for number in range(3):
        batch = batch_of(objective, number=number)
        assert np.array_equal(np.stack([batch['source_lengths_B'], batch['target_lengths_B']],
                                       axis=1)[:-1], lengths_N2)
        for row in range(len(objective)):
            text, _, hidden = parse_spans(batch, row)
            n = len(text)
            count = min(max(round(n * rate), 1), n - 1)
            spans = min(max(round(count / mean_span), 1), count, n - count,
                        len(SPECIAL.sentinels) - 1)
            assert (sum(map(len, hidden)), len(hidden)) == (count, spans)
            seen += text if number == 0 else []
            inputs = batch['inputs_BT'][row].tolist()
            labels = batch['labels_BT'][row].tolist()
            T = batch['target_lengths_B'][row]
            assert inputs == [SPECIAL.bos, *labels[:T - 1], *[SPECIAL.pad] * (len(labels) - T)]
    position, everything = FIRST, []
    for document in DOCUMENTS:  # a text of one token has nothing to be seen beside what is hidden
        everything += range(position, position + sum(document)) if sum(document) > 1 else []
        position += sum(document) + 1
    assert seen == everything


def test_spans_have_the_share_and_mean_of_the_paper_and_any_place():
    objective = build('spans', text_store([[200]]), sequence_length=220)
    places, sizes = Counter(), []
    for number in range(400):
        text, visible, hidden = parse_spans(batch_of(objective, number=number), 0)
        places.update((token - FIRST) // 20 for span in hidden for token in span)
        sizes += map(len, hidden)
    assert sum(sizes) == 400 * 30 and len(sizes) == 400 * 10
    assert max(sizes) > 9  # not all near the mean
    share = np.array([places[i] for i in range(10)]) / (400 * 30)
    assert (abs(share[1:-1] - 0.1) < 0.02).all()


def test_compositions_are_uniform():
    totals_N, parts_N = np.full(3000, 6), np.full(3000, 3)
    totals_N[::2], parts_N[::2] = 4, 2
    lists_NK = random_composition(totals_N, parts_N, key(0))
    for odd, total, parts in ((1, 6, 3), (0, 4, 2)):
        possible = {c for c in itertools.product(range(1, total), repeat=parts) if sum(c) == total}
        counts = Counter(tuple(row[:parts]) for row in lists_NK[odd::2].tolist())
        assert set(counts) == possible and is_uniform(counts, len(possible))
        assert not lists_NK[odd::2, parts:].any()


# ---- denoising -----------------------------------------------------------------------------

def denoised(batch, row):
    """(source, target) of a row without padding and EOS."""
    source = batch['source_BS'][row, :batch['source_lengths_B'][row]].tolist()
    target = batch['labels_BT'][row, :batch['target_lengths_B'][row]].tolist()
    assert source.pop() == target.pop() == SPECIAL.eos
    assert (batch['source_BS'][row, len(source) + 1:] == SPECIAL.pad).all()
    return source, target


@pytest.mark.parametrize('rate, mean_span', [(0.3, 3.0), (0.15, 1.0), (0.9, 0.4), (0.3, 40.0)])
@pytest.mark.parametrize('length', [2, 9, 64])
def test_the_target_is_the_text_and_the_source_hides_the_share(rate, mean_span, length):
    objective = build('denoise', text_store(DOCUMENTS), sequence_length=length, noise_rate=rate,
                      mean_span=mean_span)
    assert objective.lengths(0, len(objective)).max() <= length
    for number in range(3):
        batch = batch_of(objective, number=number)
        targets = []
        for row in range(len(objective)):
            source, target = denoised(batch, row)
            targets.append(target)
            visible = [token for token in source if token != SPECIAL.mask]
            assert len(set(visible)) == len(visible) and set(visible) <= set(target)
            assert len(target) - len(visible) == min(max(round(rate * len(target)), 1),
                                                     len(target))
            assert len(visible) < len(source) <= len(target)
        assert targets == pieces_of(DOCUMENTS, length - 1)


def test_sentences_stay_whole_in_every_order_equally_often():
    objective = build('denoise', text_store([[4, 6, 5]]), noise_rate=0.01)
    orders = Counter()
    for number in range(900):
        source, _ = denoised(batch_of(objective, number=number), 0)
        visible = [token - FIRST for token in source if token != SPECIAL.mask]
        runs = [(s, list(run)) for s, run in itertools.groupby(
            visible, lambda i: 0 if i < 4 else 1 if i < 10 else 2)]
        assert len(runs) == 3 and all(run == sorted(run) for _, run in runs)
        orders[tuple(s for s, _ in runs)] += 1
    assert is_uniform(orders, 6)


def test_spans_are_poisson_and_anywhere():
    n, mean = 480, 3.0
    objective = build('denoise', text_store([[n], [37], [n]]), noise_rate=0.2, mean_span=mean)
    gaps, places = Counter(), Counter()
    for number, row in itertools.product(range(80), (0, 1, 2)):
        source, target = denoised(batch_of(objective, number=number), row)
        at, masks = target[0] - 1, 0  # one sentence: the order of the text stays
        for token in [*source, target[-1] + 1]:
            if token == SPECIAL.mask:
                masks += 1
                continue
            assert token > at and (masks or token == at + 1)  # nothing is hidden without a mask
            if row != 1:  # too short for the law
                if masks == 1:  # a lone mask stands for the tokens between its neighbours
                    gaps[token - at - 1] += 1
                places.update((i - target[0]) * 10 // n for i in range(at + 1, token))
            at, masks = token, 0
    total = gaps.total()
    observed = np.array([gaps[k] for k in range(12)]) / total
    poisson = np.exp(-mean) * np.cumprod([1, *(mean / k for k in range(1, 12))])
    assert total > 3000
    # every row's last span is cut to fit, one in 32
    assert (abs(observed - poisson) < 5 * np.sqrt(poisson / total) + 1 / 60).all()
    assert abs(sum(k * count for k, count in gaps.items()) / total - mean) < 0.15
    assert (abs(np.array([places[i] for i in range(10)]) / places.total() - 0.1) < 0.015).all()
