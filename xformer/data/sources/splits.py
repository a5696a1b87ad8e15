"""Which examples of a data set belong to train, dev and test."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xformer.data.sources.files import read_text

SPLITS = ('train', 'dev', 'test')
Pair = tuple[str, str]  # source text, target text


class Labelled(NamedTuple):
    """A text or pair with what is to be found: a label, a number, the tags of its words (joined
    by spaces like the words), or [answer, first character] for each answer to `first` in `second`.
    """

    first: str
    second: str
    target: str | list


def split_of(source: str, test: float = 0.07, dev: float = 0.03) -> str:
    """The split a text belongs to by its hash: the shares `test` and `dev`, the rest train.

    All examples of one source fall in the same split, whatever their order or number.
    """
    x = int(hashlib.sha256(source.encode()).hexdigest()[:8], 16) / 2**32
    return 'test' if x < test else 'dev' if x < test + dev else 'train'


def part_of(example: Any) -> str:
    """The split of a pair by its source, of a document by its first that is not blank: an
    empty line would send all that begin with one to the same."""
    return split_of(example[0] if isinstance(example, tuple) else
                    next(filter(str.strip, example), ''))


def part_of_context(example: Labelled) -> str:
    """The split of a question by its context, so that no context is in two splits."""
    return split_of(example.second)


@dataclass(frozen=True)
class Source:
    """A data set: the files of the splits that have their own, their reader, and a rule.

    `read(*paths)` yields pairs or documents; `part(example)` is the split that an example of the
    train files belongs to, asked for the splits without files. One verbatim text is cut by place
    instead, as nanoGPT does: its last tenth of characters is dev, and nothing of it is test.
    `absent` are splits that neither have files nor are held out.
    """

    files: dict[str, list[Path]]
    read: Callable[..., Iterator]
    part: Callable[[Any], str] = part_of
    absent: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits there are."""
        absent = {'test'} - self.files.keys() if self.read is read_text else self.absent
        return tuple(split for split in SPLITS if split not in absent)

    def examples(self, split: str, prepare: Callable[[Any], Any]) -> Iterator:
        """The prepared examples of a split there is, in file order."""
        paths = self.files.get(split, self.files.get('train', []))
        if self.read is read_text:
            start = 0.0 if split in self.files else 0.9
            stop = 0.9 if split == 'train' and 'dev' not in self.files else 1.0
            yield from map(prepare, read_text(*paths, start, stop))
            return
        for example in map(prepare, self.read(*paths)):
            if self._holds(split, example):
                yield example

    def _holds(self, split: str, example: Any) -> bool:
        if split not in self.files:
            return self.part(example) == split
        return split != 'train' or self.part(example) in {*self.absent, *self.files}
