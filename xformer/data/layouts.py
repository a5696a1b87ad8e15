"""What a token store keeps of each kind of example, and how that is made from text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xformer.config import LABELLED, Config, UserError
from xformer.data.sources import kind_of
from xformer.data.tokenizers import Tokenizer, Tokenizers, encode_following


class Row(NamedTuple):
    """Of the input: what the columns are made from, whether an example ends here, and whether it
    began before."""

    parts: tuple
    last: bool
    follows: bool = False


class Encoded(NamedTuple):
    """A row of numbers for each column; of two texts, how many EOS part them (RoBERTa: 2)."""

    ids: Sequence[Sequence[float]]
    last: bool
    between: int = 1


class Layout(NamedTuple):
    """`length` is what model.max_length limits, or 0 where texts may have any length."""

    columns: tuple[str, ...]
    dtypes: dict[str, str]  # of columns that hold no token ids
    rows: Callable[[Iterable], Iterator[Row]]
    encode: Callable[[list[Row], Tokenizers], list[Encoded]]
    length: Callable[[Encoded], int] = lambda row: 0
    cut: Callable[[Encoded, int], Encoded] | None = None


def _whole(examples: Iterable) -> Iterator[Row]:
    return (Row(tuple(example), True) for example in examples)


def _sentences(documents: Iterable[Iterable[str]]) -> Iterator[Row]:
    for document in documents:
        before, follows = None, False
        for sentence in document:
            if before is not None:
                yield Row((before,), False, follows)
                follows = True
            before = sentence
        if before is not None:
            yield Row((before,), True, follows)


def _encode_pairs(batch: list[Row], tokenizers: Tokenizers) -> list[Encoded]:
    """Each side ended by EOS, or as the template of a published encoder-decoder has it, which alone
    ends a text in EOS (BART begins it with BOS, too)."""
    encoded, template = _encode_texts(batch, tokenizers), tokenizers.template
    if not (template and template.after):
        return encoded
    return [row._replace(ids=[template.row([side[:-1]]) for side in row.ids]) for row in encoded]


def _encode_texts(batch: list[Row], tokenizers: Tokenizers) -> list[Encoded]:
    """Each side, ended by EOS where an example ends."""
    follows = [row.follows for row in batch]
    ids = zip(*(_encode_rows(tokenizer, texts, follows) for tokenizer, texts in zip(
        (tokenizers.source, tokenizers.target), zip(*(row.parts for row in batch)))))
    end = [tokenizers.special.eos]
    return [Encoded([side + end for side in sides] if row.last else sides, row.last)
            for sides, row in zip(ids, batch)]


def _encode_rows(tokenizer: Tokenizer, texts: Sequence[str],
                 follows: Sequence[bool]) -> list[list[int]]:
    """Each text, as the beginning of one or as what follows on the text before."""
    begins = iter(tokenizer.encode_batch([text for text, on in zip(texts, follows) if not on]))
    goes_on = iter(encode_following(tokenizer, [text for text, on in zip(texts, follows) if on]))
    return [next(goes_on if on else begins) for on in follows]


def _longest_side(row: Encoded) -> int:
    return max(map(len, row.ids))


def _cut_sides(row: Encoded, most: int) -> Encoded:
    """Each side with at most that many tokens."""
    return row._replace(ids=[cut_side(ids, most) for ids in row.ids])


def cut_side(ids: Sequence, most: int) -> Sequence:
    """At most that many tokens, the last one kept."""
    return ids if len(ids) <= most else ids[:most - 1] + ids[-1:]


def _both_sides(row: Encoded) -> int:
    return sum(map(len, row.ids))


def _cut_both(row: Encoded, most: int) -> Encoded:
    """Both in one text of at most that many tokens, each with its end token: first the source is
    cut, to nothing but that if need be."""
    source, target = row.ids
    target = cut_side(target, most - 1)
    return row._replace(ids=[cut_side(source, most - len(target)), target])


def _encode_labels(batch: list[Row], tokenizers: Tokenizers) -> list[Encoded]:
    first, second, labels = zip(*(row.parts for row in batch))
    sides = (tokenizers.source.encode_batch(list(texts)) for texts in (first, second))
    return [Encoded([*ids, [label_id(label, tokenizers)]], True, tokenizers.between)
            for *ids, label in zip(*sides, labels)]


def _encode_numbers(batch: list[Row], tokenizers: Tokenizers) -> list[Encoded]:
    first, second, numbers = zip(*(row.parts for row in batch))
    sides = (tokenizers.source.encode_batch(list(texts)) for texts in (first, second))
    mean, deviation = scale(tokenizers)
    return [Encoded([*ids, [(float(number) - mean) / deviation]], True, tokenizers.between)
            for *ids, number in zip(*sides, numbers)]


def scale(tokenizers: Tokenizers) -> tuple[float, float]:
    """(mean, standard deviation) of the numbers of the training data: what is learnt are
    deviations from the one in units of the other, whatever the numbers measure. As they are
    where nothing is known of them."""
    mean, deviation = map(float, tokenizers.labels or ('0', '1'))
    return mean, deviation


def _encode_tags(batch: list[Row], tokenizers: Tokenizers) -> list[Encoded]:
    return [Encoded([*encode_words(row.parts[0], tokenizers, row.parts[2])], True)
            for row in batch]


def encode_words(text: str, tokenizers: Tokenizers, tags: str = ''
                 ) -> tuple[list[int], list[int], list[int]]:
    """ids of a text; no second text; and of each token its word's label, or -1 where it does not
    begin a word (Devlin et al. 2019, section 5.3). Without tags, the number of the word instead."""
    ids, places = tokenizers.source.spans(text)
    words, begin = text.split(), 0
    targets = [-1] * len(ids)
    token = 0
    labels = [label_id(tag, tokenizers) for tag in tags.split()] or range(len(words))
    for word, label in zip(words, labels):
        begin = text.index(word, begin)
        while token < len(ids) and places[token][1] <= begin:
            token += 1
        end = begin + len(word)
        if token < len(ids) and places[token][0] < end:  # else its characters are all dropped
            targets[token] = label
            token += 1
        begin = end
    return list(ids), [], targets


def _encode_answers(batch: list[Row], tokenizers: Tokenizers) -> list[Encoded]:
    """The first answer as the first and the last of its tokens in the context; or -1, -1."""
    encoded = []
    for question, context, answers in (row.parts for row in batch):
        ids, places = tokenizers.source.spans(context)
        span = [-1, -1]
        if answers:
            text, start = answers[0]
            inside = [i for i, (a, b) in enumerate(places) if a < start + len(text) and b > start]
            span = [inside[0], inside[-1]] if inside else span
        encoded.append(Encoded([tokenizers.source.encode(question), list(ids), span], True,
                               tokenizers.between))
    return encoded


def label_id(label: str, tokenizers: Tokenizers) -> int:
    """Its place among the labels of the training data. Raises UserError for any other."""
    if label not in tokenizers.labels:
        raise UserError(f'the label {label!r} is not one of the training data, which has '
                        f'{", ".join(tokenizers.labels[:20])}; mend it')
    return tokenizers.labels.index(label)


def tokens_of(row: Encoded) -> int:
    """[BOS] first [EOS], and second [EOS] where there is one."""
    first, second, _ = row.ids
    return len(first) + 2 + (len(second) + row.between if len(second) else 0)


def cut_longer(row: Encoded, most: int) -> Encoded:
    """At most that many tokens, taken from the end of the longer text; tags go with theirs."""
    first, second, target = row.ids
    room = most - 2 - (row.between if len(second) else 0)
    if not len(second) and len(target) == len(first) > 1:
        target = target[:room]
    return row._replace(ids=[*shortened(first, second, room), target])


def shortened(first: Sequence, second: Sequence, room: int) -> tuple[Sequence, Sequence]:
    """Two texts (the second may be empty) of at most `room` tokens together, taken from the end of
    the longer one."""
    keep = min(len(first), max(room - len(second), (room + 1) // 2)) if len(second) else room
    return first[:keep], second[:room - keep]


def _question_tokens(row: Encoded) -> int:
    """With as much room for the context: that is read through windows (see objectives.answer)."""
    return 2 * (len(row.ids[0]) + 1 + row.between)


def _cut_question(row: Encoded, most: int) -> Encoded:
    return row._replace(ids=[row.ids[0][:most // 2 - 1 - row.between], *row.ids[1:]])


_LABELLED = {'columns': ('first', 'second', 'target'), 'rows': _whole, 'length': tokens_of,
             'cut': cut_longer}
LAYOUTS: dict[str, Layout] = {
    'pairs': Layout(('source', 'target'), {}, _whole, _encode_pairs, _longest_side, _cut_sides),
    'joined pairs': Layout(('source', 'target'), {}, _whole, _encode_pairs, _both_sides, _cut_both),
    'texts': Layout(('text',), {}, _sentences, _encode_texts),
    'classify': Layout(dtypes={'target': '<i4'}, encode=_encode_labels, **_LABELLED),
    'regress': Layout(dtypes={'target': '<f4'}, encode=_encode_numbers, **_LABELLED),
    'tag': Layout(dtypes={'target': '<i4'}, encode=_encode_tags, **_LABELLED),
    'answer': Layout(dtypes={'target': '<i4'}, encode=_encode_answers, **_LABELLED | {
        'length': _question_tokens, 'cut': _cut_question}),
}
assert set(LABELLED) < LAYOUTS.keys()


def layout_of(config: Config) -> str:
    """The name of the layout that training needs: a decoder has both sides of a pair in one row."""
    kind = kind_of(config.data)
    return 'joined pairs' if kind == 'pairs' and config.model.family == 'decoder' else kind


def highest_id(store, config: Config) -> int:
    """Of the tokens in a store; -1 if it has none."""
    plain = LAYOUTS[layout_of(config)].dtypes
    return max((int(column.ids.max()) for name, column in store.columns.items()
                if name not in plain and len(column.ids)), default=-1)


NO_ANSWER = 'no answer'


def labels_in(examples: Iterable, kind: str) -> tuple[str, ...]:
    """What a head has to know of the training data: the labels that classify or tag examples use,
    sorted; NO_ANSWER if a question has none; the `scale` of numbers."""
    found: set[Any] = set()
    if kind == 'regress':
        numbers_N = np.fromiter((float(example.target) for example in examples), float)
        return (str(numbers_N.mean()), str(numbers_N.std() or 1.0)) if len(numbers_N) else ()
    if kind == 'classify':
        found = {example.target for example in examples}
    elif kind == 'tag':
        found = {tag for example in examples for tag in example.target.split()}
    elif kind == 'answer' and not all(example.target for example in examples):
        found = {NO_ANSWER}
    return tuple(sorted(found))
