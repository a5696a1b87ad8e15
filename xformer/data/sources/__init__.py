"""Where examples come from: known data sets, generated ones and the user's own files."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xformer.config import LABELLED, DataConfig, UserError
from xformer.data.sources import files, labelled
from xformer.data.sources.datasets import check, known_source
from xformer.data.sources.files import digest, read_lines
from xformer.data.sources.splits import (
    SPLITS,
    Labelled,
    Pair,
    Source,
    part_of,
    part_of_context,
    split_of,
)

__all__ = ['SPLITS', 'Labelled', 'Pair', 'digests', 'kind_of', 'prepare_source',
           'read_examples', 'read_lines', 'split_of', 'splits_of']

_READERS = {
    'pairs': {'tsv': files.read_tsv, 'parallel': files.read_parallel,
              'jsonl': files.read_json_pairs, 'lines': files.read_line_pairs},
    'texts': {'lines': files.read_line_documents, 'jsonl': files.read_json_documents,
              'documents': files.read_documents, 'text': files.read_text},
    'classify': {'tsv': labelled.read_tsv_labels, 'jsonl': labelled.read_json_labels},
    'regress': {'tsv': labelled.numbers(labelled.read_tsv_labels),
                'jsonl': labelled.numbers(labelled.read_json_labels)},
    'tag': {'conll': labelled.read_conll, 'jsonl': labelled.read_json_tags},
    'answer': {'squad': labelled.read_squad, 'jsonl': labelled.read_json_answers},
}


def kind_of(data: DataConfig) -> str:
    """What data.objective learns from: 'pairs' (source, target), 'texts', or its own labels."""
    return data.objective if data.objective in ('pairs', *LABELLED) else 'texts'


def prepare_source(text: str, data: DataConfig) -> str:
    """The source or text as the tokenizer sees it, in training and in generation alike."""
    return text.lower() if data.lowercase_source else text


def splits_of(data: DataConfig) -> tuple[str, ...]:
    """The splits there are: all three, but one verbatim text has no test split of its own."""
    found = {split for source in _sources(data) for split in source.splits}
    return tuple(split for split in SPLITS if split in found)


def read_examples(data: DataConfig, split: str) -> Iterator:
    """The examples of one split, in file order: pairs, `Labelled`, or documents as iterables of
    sentences.

    A dev or test split without a file is held out of the train file: by `split_of` the source,
    the text, the context of an answer or the document's first sentence that is not blank; of one
    verbatim text (format=text) dev is the last tenth. data.per_label leaves out examples of train.
    A document is a list, save a verbatim text, which is an iterator to be used up before the
    next one. Raises UserError for a split there is not, an unknown data set, and for whatever is
    wrong with a file.
    """
    if split not in splits_of(data):
        raise UserError(f'there is no {split} split: one text is cut into train and dev alone; '
                        f'give --config.data.{split}=FILE or read the dev split')

    kind = kind_of(data)

    def prepare_pair(pair: Pair) -> Pair:
        return prepare_source(pair[0], data), pair[1]

    def prepare_labelled(example: Labelled) -> Labelled:
        first, second, target = example
        if kind == 'answer':  # lower-casing may make a text longer
            target = [[prepare_source(text, data), len(prepare_source(second[:start], data))]
                      for text, start in target]
        return Labelled(prepare_source(first, data), prepare_source(second, data), target)

    def prepare_document(document) -> Any:
        prepared = (prepare_source(sentence, data) for sentence in document)
        return _parted(prepared) if isinstance(document, list) else prepared

    prepare = {'pairs': prepare_pair, 'texts': prepare_document}.get(kind, prepare_labelled)
    examples = (example for source in _sources(data) if split in source.splits
                for example in source.examples(split, prepare))
    yield from _some_of_each(examples, data) if split == 'train' and data.per_label else examples


def _parted(sentences: Iterable[str]) -> list[str]:
    """With a space before each but the first where there is no whitespace yet: end to end they
    make the text."""
    found: list[str] = []
    for sentence in sentences:
        glued = found and not any(map(str.isspace, found[-1][-1:] + sentence[:1]))
        found.append(' ' + sentence if glued else sentence)
    return found


def _some_of_each(examples: Iterator[Labelled], data: DataConfig) -> Iterator[Labelled]:
    """data.per_label examples of each label, those whose texts have the lowest hash."""
    by_label = defaultdict(list)
    for place, example in enumerate(examples):
        order = hashlib.sha256(f'{example.first}\t{example.second}'.encode()).digest()
        by_label[example.target].append((order, place, example))
    chosen = []
    for label, rows in by_label.items():
        if len(rows) < data.per_label:
            raise UserError(f'data.per_label={data.per_label}, but train has {len(rows)} examples '
                            f'of the label {label!r}; choose at most that')
        chosen += sorted(rows)[:data.per_label]
    for _, _, example in sorted(chosen, key=lambda row: row[1]):
        yield example


def digests(data: DataConfig) -> list:
    """What `read_examples` depends on besides the settings, as plain JSON: names and sha256.

    Raises UserError when a file of a known data set is not the published one.
    """
    if data.dataset:
        return [[name, check(name, kind_of(data))] for name in data.dataset.split('+')]
    [source] = _sources(data)
    return [[data.format, {split: [digest(path) for path in paths]
                           for split, paths in source.files.items()}]]


def _sources(data: DataConfig) -> list[Source]:
    kind = kind_of(data)
    if data.dataset:
        return [known_source(name, kind) for name in data.dataset.split('+')]
    readers = _READERS[kind]
    if data.format not in readers:
        raise UserError(f'data.format={data.format} has no {kind}, which data.objective='
                        f'{data.objective} learns from; choose one of {", ".join(readers)}')
    part = part_of_context if kind == 'answer' else part_of
    return [Source(_given_files(data), readers[data.format], part)]


def _given_files(data: DataConfig) -> dict[str, list[Path]]:
    """The files of each split that has its own: two for format=parallel, else one."""
    given = {}
    for split in SPLITS:
        location = getattr(data, split)
        if not location:
            continue
        paths = location.split(',') if data.format == 'parallel' else [location]
        if data.format == 'parallel' and (len(paths) != 2 or not all(paths)):
            raise UserError(f'data.{split}={location} must be SOURCE,TARGET (two files joined by '
                            'one comma) with data.format=parallel')
        given[split] = [Path(path).expanduser() for path in paths]
    return given
