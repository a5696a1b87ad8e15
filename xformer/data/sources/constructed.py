"""Tasks made from real text by rule, where no labelled set may be used.

with_errors  sentences with mistakes put in, to be corrected
casual       sentences as one would type them in a hurry, to be made formal
cloze        sentences with a name left out, to be found in the rest of their document, as Hermann
             et al. (2015) made questions of the summaries of news

What is drawn depends on the text alone: the same sentence always gets the same mistakes.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xformer.data.sources.generated import choose
from xformer.data.sources.splits import Labelled, Pair

Documents = Callable[[Path], Iterator[Sequence[str]]]  # of sentences
BLANK = '____'
SHORTEST, LONGEST = 5, 40  # words of a sentence that is used

_EXCHANGED = [group.split() for group in (
    'a the', 'an the', 'is are', 'was were', 'has have', 'does do', 'this these',
    'in on at', 'for to of', 'with by from', 'its their', 'then than', 'can could')]
_CASUAL = [(re.compile(rf'\b{formal}\b', re.IGNORECASE), short) for formal, short in (
    ('do not', "don't"), ('does not', "doesn't"), ('is not', "isn't"), ('are not', "aren't"),
    ('can ?not', "can't"), ('will not', "won't"), ('it is', "it's"), ('that is', "that's"),
    ('you are', 'ur'), ('you will', "you'll"), ('you have', "you've"), ('you can', 'u can'),
    ('your', 'ur'), ('want to', 'wanna'), ('going to', 'gonna'), ('have to', 'gotta'),
    ('must', 'gotta'), ('because', 'cuz'), ('for example', 'eg'), ('and', '&'), ('with', 'w/'),
    ('please', 'pls'), ('however', 'but'), ('therefore', 'so'), ('information', 'info'),
    ('document', 'doc'), ('documents', 'docs'), ('application', 'app'), ('without', 'w/o'))]
_NAME = re.compile(r"(?<![\w.-])(?:[A-Z][\w+-]*\w|\w+[A-Z]\w*)(?: (?:[A-Z][\w+-]*\w|\w+[A-Z]\w*))*")


def with_errors(read: Documents) -> Callable[[Path], Iterator[Pair]]:
    """(a sentence with none to three mistakes, the sentence): words exchanged, left out, doubled
    or out of order, letters left out."""
    def read_errors(path: Path) -> Iterator[Pair]:
        for sentence, draw in _sentences(read(path)):
            words = sentence.split()
            for _ in range(choose(draw, (0, 1, 1, 2, 2, 3))):
                words = choose(draw, (_exchange, _exchange, _leave_out, _misspell, _double,
                                      _swap))(words, draw)
            yield ' '.join(words), ' '.join(sentence.split())
    return read_errors


def casual(read: Documents) -> Callable[[Path], Iterator[Pair]]:
    """(a sentence with short forms, without capitals and full stop, the sentence)."""
    def read_casual(path: Path) -> Iterator[Pair]:
        for sentence, draw in _sentences(read(path)):
            short = sentence
            for pattern, form in _CASUAL:
                if draw.random() < 0.8:
                    short = pattern.sub(form, short)
            yield short.lower().rstrip('.'), sentence
    return read_casual


def cloze(read: Documents) -> Callable[[Path], Iterator[Labelled]]:
    """Of each document at most one question: a sentence with the name left out that another
    sentence has, too. The context is all other sentences."""
    def read_cloze(path: Path) -> Iterator[Labelled]:
        for document in read(path):
            sentences = list(document)
            names = [_names(sentence) for sentence in sentences]
            shared = [(name, i) for i, ours in enumerate(names) for name in ours
                      if any(name in theirs for theirs in names[:i] + names[i + 1:])]
            if not shared:
                continue
            name, i = choose(random.Random(sentences[0]), shared)
            found = re.compile(rf'(?<!\w){re.escape(name)}(?!\w)')
            context = ' '.join(sentences[:i] + sentences[i + 1:])
            yield Labelled(found.sub(BLANK, sentences[i]), context,
                           [[name, match.start()] for match in found.finditer(context)])
    return read_cloze


def asked(read: Callable[[Path], Iterator[Labelled]]) -> Callable[[Path], Iterator[Pair]]:
    """The same questions as texts, as T5 is asked (Raffel et al. 2020, appendix D.15)."""
    def read_asked(path: Path) -> Iterator[Pair]:
        for question, context, answers in read(path):
            yield f'question: {question} context: {context}', answers[0][0]
    return read_asked


def _sentences(documents: Iterator[Sequence[str]]) -> Iterator[tuple[str, random.Random]]:
    """Those of usable length, each once a document, with a source of chance that is theirs."""
    for document in documents:
        for sentence in dict.fromkeys(document):
            if SHORTEST <= len(sentence.split()) <= LONGEST:
                yield sentence, random.Random(sentence)


def _names(sentence: str) -> list[str]:
    """Capitalised words in sequence, but not the sentence's first word by itself."""
    return [match[0] for match in _NAME.finditer(sentence)
            if len(match[0]) > 2 and (match.start() or ' ' in match[0])]


def _exchange(words: list[str], draw: random.Random) -> list[str]:
    """A small word for another one that is often mistaken for it; no change if there is none."""
    places = [(i, group) for i, word in enumerate(words) for group in _EXCHANGED if word in group]
    if not places:
        return words
    i, group = choose(draw, places)
    return [*words[:i], choose(draw, [word for word in group if word != words[i]]), *words[i + 1:]]


def _leave_out(words: list[str], draw: random.Random) -> list[str]:
    """Without one of its short words."""
    places = [i for i, word in enumerate(words) if word.isalpha() and len(word) < 4]
    i = choose(draw, places) if places else len(words)
    return words[:i] + words[i + 1:]


def _misspell(words: list[str], draw: random.Random) -> list[str]:
    """Without one letter of a longer word."""
    places = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 4]
    if not places:
        return words
    i = choose(draw, places)
    k = choose(draw, range(1, len(words[i])))
    return [*words[:i], words[i][:k] + words[i][k + 1:], *words[i + 1:]]


def _double(words: list[str], draw: random.Random) -> list[str]:
    i = choose(draw, range(len(words)))
    return words[:i + 1] + words[i:]


def _swap(words: list[str], draw: random.Random) -> list[str]:
    i = choose(draw, range(len(words) - 1))
    return [*words[:i], words[i + 1], words[i], *words[i + 2:]]
