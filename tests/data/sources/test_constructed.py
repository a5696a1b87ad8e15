"""Tasks made from text: the text itself is the answer, and chance depends on nothing else."""

import difflib

import pytest

from xformer.data.sources.constructed import BLANK, asked, casual, cloze, with_errors
from xformer.data.sources.generated import documents

TEXT = [
    ['This is the Widget Engine for small screens.', 'It does not need the network at all.',
     'Programs use the Widget Engine because it is fast and simple.'],
    ['You can write a document with this application.', 'Please do not close it.', 'Too short.'],
    ['Every program here is written in Python.', 'The manual of Python is in another package.',
     'It has a chapter about Python and a chapter about the tools.'],
    ['No name is here, nor is there another one.', 'But here it is Perl alone.'],
]


def read(path):
    return iter(TEXT)


def long(path):
    return (sentences for _, sentences in zip(range(300), documents()))


def test_mistakes_are_few_and_the_same_every_time():
    pairs = list(with_errors(long)(None))
    assert pairs == list(with_errors(long)(None))
    assert [right for _, right in pairs] == [
        sentence for sentences in long(None) for sentence in dict.fromkeys(sentences)]
    changed = 0
    for wrong, right in pairs:
        moves = [part for part in difflib.SequenceMatcher(
            None, wrong.split(), right.split(), autojunk=False).get_opcodes() if part[0] != 'equal']
        assert len(moves) <= 2 * 3  # a swap may be two
        changed += wrong != right
    assert 0.6 < changed / len(pairs) < 0.9  # one of six has none, some are undone
    assert next(with_errors(read)(None)) == next(with_errors(lambda path: iter(TEXT[:1]))(None))


def test_sentences_too_short_are_left_out():
    assert [formal for _, formal in casual(read)(None)] == [
        sentence for sentences in TEXT for sentence in sentences if len(sentence.split()) >= 5]


def test_casual_forms_are_of_the_sentence():
    pairs = dict((formal, short) for short, formal in casual(read)(None))
    assert all(short == short.lower() and short[-1] != '.' for short in pairs.values())
    assert pairs['You can write a document with this application.'] in {
        f'{you} write a {doc} {wi} this {app}' for you in ('you can', 'u can')
        for doc in ('document', 'doc') for wi in ('with', 'w/') for app in ('application', 'app')}


def test_a_name_is_asked_for_that_the_context_has():
    first, python = cloze(read)(None)  # the others have no name twice
    assert first.target[0][0] == 'Widget Engine' and python.target[0][0] == 'Python'
    for example, sentences in ((first, TEXT[0]), (python, TEXT[2])):
        answers = {text for text, _ in example.target}
        assert len(answers) == 1
        [answer] = answers
        assert all(example.second[start:start + len(answer)] == answer
                   for _, start in example.target)
        assert example.second.count(answer) == len(example.target)
        assert BLANK in example.first and answer not in example.first
        assert example.first.replace(BLANK, answer) in sentences
        assert sorted(example.second) == sorted(' '.join(
            sentence for sentence in sentences
            if sentence != example.first.replace(BLANK, answer)))
    assert next(asked(cloze(read))(None)) == (
        f'question: {first.first} context: {first.second}', 'Widget Engine')


@pytest.mark.parametrize('make', [with_errors, casual, cloze])
def test_no_text_no_task(make):
    assert list(make(lambda path: iter([]))(None)) == []
