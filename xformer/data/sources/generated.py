"""Data sets without files: small tasks that show at once whether a model can learn.

They are the same everywhere: `random.Random(seed).random()` is fixed by the language. Train, dev
and test never share a source.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from string import ascii_lowercase
from typing import Any

from xformer.data.sources.splits import Labelled, Pair, Source, part_of_context, split_of

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
        a, b = (int(source.random() * 10 ** choose(source, (1, 2, 3))) for _ in range(2))
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
        yield [_sentence(source, subject) for _ in range(choose(source, range(2, 9)))]


def subjects() -> Iterator[Labelled]:
    """A document, and the animal that it is about."""
    for sentences in documents():
        yield Labelled(' '.join(sentences), '', sentences[0].split()[2])


def shares() -> Iterator[Labelled]:
    """A document, and the share of its sentences that happen at night."""
    for sentences in documents():
        nights = sum(sentence.endswith('at night .') for sentence in sentences)
        yield Labelled(' '.join(sentences), '', f'{nights / len(sentences):.4f}')


def tagged_sentences() -> Iterator[Labelled]:
    """A sentence, and its noun phrases and places as entities (the first word of each B-)."""
    for sentence in itertools.chain.from_iterable(documents()):
        words = sentence.split()
        place = ['I-place'] * (len(words) - 8)
        yield Labelled(sentence, '', ' '.join([
            'B-animal', 'I-animal', 'I-animal', 'O', 'B-animal', 'I-animal', 'I-animal',
            'B-place', *place[1:], 'O']))


def questions() -> Iterator[Labelled]:
    """What a document's animal does to another one; of every third, one that is not there."""
    for i, sentences in enumerate(documents()):
        context, words = ' '.join(sentences), sentences[-1].split()
        verb, answer = words[3], ' '.join(words[4:7])
        asked = Labelled(f'whom does it {verb} last ?', context, [[answer, context.rindex(answer)]])
        yield asked if i % 3 else asked._replace(first='whom does it carry ?', target=[])


GENERATED = {  # name: {kind: source}
    'copy': {'pairs': Source({}, copies)},
    'reverse': {'pairs': Source({}, reversals)},
    'addition': {'pairs': Source({}, sums)},
    # half of all equations train, as in the paper; the other half is test and a tenth dev
    'modular_addition': {'pairs': Source({}, modular_sums,
                                         lambda pair: split_of(pair[0], test=0.4, dev=0.1))},
    'sentences': {'texts': Source({}, documents), 'classify': Source({}, subjects),
                  'regress': Source({}, shares), 'tag': Source({}, tagged_sentences),
                  'answer': Source({}, questions, part_of_context)},
}


def choose(source: random.Random, choices: Sequence[Any]) -> Any:
    """One of the choices, by `random()` alone, which is the same in every version of the
    language."""
    return choices[int(source.random() * len(choices))]


def _letters(seed: int) -> Iterator[str]:
    source = random.Random(seed)
    for _ in range(EXAMPLES):
        length = choose(source, range(1, 21))
        yield ''.join(choose(source, ascii_lowercase) for _ in range(length))


def _noun_phrase(source: random.Random) -> str:
    adjective = choose(source, ('old', 'small', 'black', 'quick', 'lazy', 'happy', 'quiet'))
    return f'the {adjective} {choose(source, ("cat", "dog", "fox", "hen", "mouse", "horse"))}'


def _sentence(source: random.Random, subject: str) -> str:
    verb = choose(source, ('sees', 'follows', 'likes', 'hears', 'greets', 'forgets'))
    place = choose(source, ('in the garden', 'by the river', 'on the hill', 'at night'))
    return f'{subject} {verb} {_noun_phrase(source)} {place} .'
