"""Files of labelled text: a label or number for a text or pair, tags of words, answers."""

import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from xformer.config import UserError
from xformer.data.sources.files import all_lines, opened, read_json, read_lines
from xformer.data.sources.splits import Labelled

_HEADINGS = {'sentence', 'sentence1', 'sentence2', 'text', 'text_a', 'text_b', 'question',
             'question1', 'question2', 'premise', 'hypothesis', 'label', 'labels', 'gold_label',
             'target', 'class', 'category', 'score', 'similarity', 'is_duplicate'}


def read_tsv_labels(path: Path) -> Iterator[Labelled]:
    """A line each: text<TAB>label, or text<TAB>text<TAB>label for pairs; all lines alike."""
    columns = 0
    for number, line in read_lines(path):
        *texts, label = line.split('\t')
        columns = columns or len(texts)
        if number == 1 and texts and label.strip().lower() in _HEADINGS and all(
                text.strip().lower() in _HEADINGS for text in texts):
            raise UserError(f'{path}:1 looks like a line of headings ({line!r}); remove it')
        if len(texts) not in (1, 2) or len(texts) != columns:
            raise UserError(f'{path}:{number} has {len(texts)} tabs; each line must be '
                            'text<TAB>label, or each text<TAB>text<TAB>label')
        if not all(part.strip() for part in (*texts, label)):
            raise UserError(f'{path}:{number} has an empty text or label; fill it in or remove '
                            'the line')
        yield Labelled(texts[0], texts[1] if columns == 2 else '', label.strip())


def read_json_labels(path: Path) -> Iterator[Labelled]:
    """A row each: {"text": TEXT, "label": LABEL}, or {"first", "second", "label"} for pairs."""
    for where, row in read_json(path):
        pair = isinstance(row, dict) and 'first' in row
        names = ('first', 'second') if pair else ('text',)
        texts = _texts(row, *names)
        label = row.get('label') if isinstance(row, dict) else None
        if not texts or isinstance(label, bool) or not isinstance(label, str | int | float) \
                or not str(label).strip():
            raise UserError(f'{where} must be JSON like {{"text": "...", "label": "..."}} or '
                            '{"first": "...", "second": "...", "label": "..."}; mend or remove '
                            'the line')
        yield Labelled(texts[0], texts[1] if pair else '', str(label))


def numbers(read: Callable[[Path], Iterator[Labelled]]) -> Callable[[Path], Iterator[Labelled]]:
    """The reader of labels `read`, of which each must be a finite number."""
    def read_numbers(path: Path) -> Iterator[Labelled]:
        for i, example in enumerate(read(path), start=1):
            try:
                finite = math.isfinite(float(example.target))
            except ValueError:
                finite = False
            if not finite:
                raise UserError(f'example {i:,} of {path} has the label {example.target!r}, which '
                                'is no number; data.objective=regress learns numbers')
            yield example
    return read_numbers


_COMMENT = re.compile(r'-DOCSTART-|#(begin|end) document|# (newdoc|newpar|[\w.:]+ =)')


def read_conll(path: Path) -> Iterator[Labelled]:
    """A word a line, its tag in the last column, a blank line between sentences. All lines of one
    have as many columns; comments of CoNLL-U and of OntoNotes are passed over."""
    found = False
    lines = (line for line in all_lines(path) if not _COMMENT.match(line[1]))
    for blank, sentence in groupby(lines, lambda line: not line[1].strip()):
        if blank:
            continue
        found, columns, words, tags = True, 0, [], []
        for number, line in sentence:
            word, *rest = line.rstrip().split('\t' if '\t' in line else None)
            columns = columns or len(rest)
            if len(rest) != columns and rest:
                raise UserError(f'{path}:{number} has {len(rest) + 1} columns, the lines before it '
                                f'{columns + 1}; mend it')
            if not rest or not word or re.search(r'\s', word + rest[-1]):
                raise UserError(f'{path}:{number} must be word<TAB>tag, without spaces inside; '
                                'mend it')
            words.append(word)
            tags.append(rest[-1])
        yield Labelled(' '.join(words), '', ' '.join(tags))
    if not found:
        raise UserError(f'{path} is empty; give a file with at least one sentence')


def read_json_tags(path: Path) -> Iterator[Labelled]:
    """A row each: {"words": [WORD, ...], "tags": [TAG, ...]}."""
    for where, row in read_json(path):
        words, tags = ((row.get(name) if isinstance(row, dict) else None)
                       for name in ('words', 'tags'))
        sound = isinstance(words, list) and isinstance(tags, list) and words and \
            len(words) == len(tags) and all(
                isinstance(word, str) and word and not re.search(r'\s', word)
                for word in (*words, *tags))
        if not sound:
            raise UserError(f'{where} must be JSON like {{"words": ["..."], "tags": ["..."]}} '
                            'with as many tags as words and no spaces inside; mend or remove the '
                            'line')
        yield Labelled(' '.join(words), '', ' '.join(tags))


def read_json_answers(path: Path) -> Iterator[Labelled]:
    """A row each: {"question", "context", "answers": [{"text", "start"}, ...]}; no answers where
    the context has none. `start`, or SQuAD's `answer_start`, counts characters."""
    for where, row in read_json(path):
        texts = _texts(row, 'question', 'context')
        if not texts:
            raise UserError(f'{where} must be JSON like {{"question": "...", "context": "...", '
                            '"answers": [{"text": "...", "start": 0}]}; mend or remove the line')
        yield _answered(where, *texts, row.get('answers'))


def read_squad(path: Path) -> Iterator[Labelled]:
    """SQuAD's JSON, 1.1 or 2.0 (Rajpurkar et al. 2016, 2018)."""
    with opened(path) as file:
        try:
            articles = json.load(file)['data']
            json.dumps(articles, ensure_ascii=False).encode()  # raises for half a character
            questions = [(paragraph['context'], question) for article in articles
                         for paragraph in article['paragraphs']
                         for question in map(dict, paragraph['qas'])]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f'{path} is not SQuAD JSON ({type(error).__name__}: {error}); check '
                            'data.format') from None
    for i, (context, question) in enumerate(questions, start=1):
        texts = _texts(question | {'context': context}, 'question', 'context')
        if not texts:
            raise UserError(f'question {i:,} of {path} or its context is empty; mend it')
        impossible = question.get('is_impossible', False)
        yield _answered(f'question {i:,} of {path}', *texts,
                        [] if impossible else question.get('answers'))


def _answered(where: str, question: str, context: str, answers: Any) -> Labelled:
    """Of a list of answers, or of a dictionary of lists, as `datasets` writes SQuAD."""
    try:
        if isinstance(answers, dict):
            spans = [list(pair) for pair in zip(answers['text'], answers['answer_start'],
                                                strict=True)]
        else:
            spans = [[answer['text'], answer['start' if 'start' in answer else 'answer_start']]
                     for answer in answers]
        sound = all(isinstance(text, str) and type(at) is int for text, at in spans)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise UserError(f'{where} must have "answers": [{{"text": "...", "start": 0}}], empty '
                        'where the context has none (or "answer_start"); mend it')
    if not all(text and at >= 0 and context[at:at + len(text)] == text for text, at in spans):
        raise UserError(f'{where} has an answer that is not in its context from its start on; '
                        'mend or remove it')
    return Labelled(question, context, spans)


def _texts(row: Any, *names: str) -> tuple[str, ...] | None:
    """The texts of these names; None unless all are there and not blank."""
    texts = tuple(row.get(name) for name in names) if isinstance(row, dict) else ()
    sound = texts and all(isinstance(text, str) and text.strip() for text in texts)
    return texts if sound else None


# Known data sets


def read_sst2(path: Path) -> Iterator[Labelled]:
    """sentence<TAB>1 where it is positive."""
    for example in read_tsv_labels(path):
        yield example._replace(target='positive' if example.target == '1' else 'negative')


def read_cola(*paths: Path) -> Iterator[Labelled]:
    """source, 1 where acceptable, the author's mark, sentence."""
    for path in paths:
        for number, line in read_lines(path):
            _, label, _, sentence = _columns(path, number, line, 4)
            yield Labelled(sentence, '', 'acceptable' if label == '1' else 'unacceptable')


def read_mrpc(path: Path) -> Iterator[Labelled]:
    """1 for a paraphrase, two ids, two sentences; under a line of headings."""
    for number, line in read_lines(path):
        if number > 1:
            label, _, _, first, second = _columns(path, number, line, 5)
            yield Labelled(first, second, 'paraphrase' if label == '1' else 'different')


def read_topics(path: Path) -> Iterator[Labelled]:
    """label<TAB>text."""
    for number, line in read_lines(path):
        label, text = _columns(path, number, line, 2)
        yield Labelled(text, '', label)


def read_topic_texts(path: Path) -> Iterator[list[str]]:
    """The texts of `read_topics` as documents."""
    return ([example.first] for example in read_topics(path))


def length_ratios(read: Callable[[Path], Iterator]) -> Callable[[Path], Iterator[Labelled]]:
    """The source of every pair with the length of its target ÷ its own, in characters."""
    def read_ratios(path: Path) -> Iterator[Labelled]:
        for source, target in read(path):
            yield Labelled(source, '', f'{len(target) / len(source):.4f}')
    return read_ratios


def _columns(path: Path, number: int, line: str, count: int) -> list[str]:
    columns = line.split('\t')
    if len(columns) != count:
        raise UserError(f'{path}:{number} has {len(columns)} columns instead of {count}; restore '
                        'the file from a copy')
    return columns
