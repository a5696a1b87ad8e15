"""Where pairs and texts come from: known data sets, generated ones and the user's own files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xformer.config import DataConfig, UserError
from xformer.data.sources import files
from xformer.data.sources.datasets import check, known_source
from xformer.data.sources.files import digest, read_lines
from xformer.data.sources.splits import SPLITS, Pair, Source, split_of

__all__ = ['SPLITS', 'Pair', 'digests', 'kind_of', 'prepare_source', 'read_examples',
           'read_lines', 'split_of', 'splits_of']

_READERS = {
    'pairs': {'tsv': files.read_tsv, 'parallel': files.read_parallel,
              'jsonl': files.read_json_pairs, 'lines': files.read_line_pairs},
    'texts': {'lines': files.read_line_documents, 'jsonl': files.read_json_documents,
              'documents': files.read_documents, 'text': files.read_text},
}


def kind_of(data: DataConfig) -> str:
    """What data.objective learns from: 'pairs' (source, target) or 'texts'."""
    return 'pairs' if data.objective == 'pairs' else 'texts'


def prepare_source(text: str, data: DataConfig) -> str:
    """The source or text as the tokenizer sees it, in training and in generation alike."""
    return text.lower() if data.lowercase_source else text


def splits_of(data: DataConfig) -> tuple[str, ...]:
    """The splits there are: all three, but one verbatim text has no test split of its own."""
    found = {split for source in _sources(data) for split in source.splits}
    return tuple(split for split in SPLITS if split in found)


def read_examples(data: DataConfig, split: str) -> Iterator:
    """The examples of one split, in file order: pairs, or documents as iterables of sentences.

    A dev or test split without a file is held out of the train file: by `split_of` the source or
    the document's first sentence; of one verbatim text (format=text) dev is the last tenth.
    A document is a list, save a verbatim text, which is an iterator to be used up before the
    next one. Raises UserError for a split there is not, an unknown data set, and for whatever is
    wrong with a file.
    """
    if split not in splits_of(data):
        raise UserError(f'there is no {split} split: one text is cut into train and dev alone; '
                        f'give --config.data.{split}=FILE or read the dev split')

    def prepare_pair(pair: Pair) -> Pair:
        return prepare_source(pair[0], data), pair[1]

    def prepare_document(document) -> Any:
        prepared = (prepare_source(sentence, data) for sentence in document)
        return list(prepared) if isinstance(document, list) else prepared

    prepare = prepare_pair if kind_of(data) == 'pairs' else prepare_document
    for source in _sources(data):
        if split in source.splits:
            yield from source.examples(split, prepare)


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
    return [Source(_given_files(data), readers[data.format])]


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
