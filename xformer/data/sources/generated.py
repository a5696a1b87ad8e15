"""Data sets without files: small tasks that show at once whether a model can learn.

They are the same everywhere: `random.Random(seed).random()` is fixed by the language. Train, dev
and test never share a source.
"""

import random
from collections.abc import Iterator, Sequence
from string import ascii_lowercase

from xformer.data.sources.splits import Pair, Source, split_of

EXAMPLES = 50_000
DOCUMENTS = 5_000
MODULUS = 97


def copies() -> Iterator[Pair]:
    """1 to 20 letters, and the same again."""
    return ((letters, letters) for letters in _letters(seed=1))


def reversals() -> Iterator[Pair]:
    """1 to 20 letters, and the same from right to left."""
    return ((letters, letters[::-1]) for letters in _letters(seed=2))


def sums() -> Iterator[Pair]:
    """'123+45' and '168': addition of two numbers of one to three digits."""
    source = random.Random(3)
    for _ in range(EXAMPLES):
        a, b = (int(source.random() * 10 ** _choose(source, (1, 2, 3))) for _ in range(2))
        yield f'{a}+{b}', str(a + b)


def modular_sums() -> Iterator[Pair]:
    """'a + b =' and 'a + b mod 97', as words: every equation once (Power et al., 2022)."""
    return ((f'{a} + {b} =', str((a + b) % MODULUS))
            for a in range(MODULUS) for b in range(MODULUS))


def documents() -> Iterator[list[str]]:
    """Documents of 2 to 8 sentences of a toy grammar, each about its own animal."""
    source = random.Random(4)
    for _ in range(DOCUMENTS):
        subject = _noun_phrase(source)
        yield [_sentence(source, subject) for _ in range(_choose(source, range(2, 9)))]


GENERATED = {  # name: (kind, its one source)
    'copy': ('pairs', Source({}, copies)),
    'reverse': ('pairs', Source({}, reversals)),
    'addition': ('pairs', Source({}, sums)),
    # half of all equations train, as in the paper; the other half is test and a tenth dev
    'modular_addition': ('pairs', Source({}, modular_sums,
                                         lambda pair: split_of(pair[0], test=0.4, dev=0.1))),
    'sentences': ('texts', Source({}, documents)),
}


def _choose(source: random.Random, choices: Sequence):
    return choices[int(source.random() * len(choices))]


def _letters(seed: int) -> Iterator[str]:
    source = random.Random(seed)
    for _ in range(EXAMPLES):
        length = _choose(source, range(1, 21))
        yield ''.join(_choose(source, ascii_lowercase) for _ in range(length))


def _noun_phrase(source: random.Random) -> str:
    adjective = _choose(source, ('old', 'small', 'black', 'quick', 'lazy', 'happy', 'quiet'))
    return f'the {adjective} {_choose(source, ("cat", "dog", "fox", "hen", "mouse", "horse"))}'


def _sentence(source: random.Random, subject: str) -> str:
    verb = _choose(source, ('sees', 'follows', 'likes', 'hears', 'greets', 'forgets'))
    place = _choose(source, ('in the garden', 'by the river', 'on the hill', 'at night'))
    return f'{subject} {verb} {_noun_phrase(source)} {place} .'
