import itertools

import numpy as np
import pytest

from xformer.config import DataConfig
from xformer.data.sources import SPLITS, read_examples
from xformer.data.sources.generated import GENERATED


def pairs_of(split='train', **options):
    return list(read_examples(DataConfig(**options), split))


def texts_of(split='train', **options):
    return [list(document)
            for document in read_examples(DataConfig(objective='lm', **options), split)]


@pytest.mark.parametrize('name', [name for name in GENERATED if name != 'sentences'])
def test_generated_pairs(name):
    parts = {split: pairs_of(split, dataset=name) for split in SPLITS}
    sources = {split: {source for source, _ in part} for split, part in parts.items()}
    assert sum(map(len, sources.values())) == len(set().union(*sources.values()))  # disjoint
    for source, target in itertools.chain(*parts.values()):
        if name == 'copy':
            assert target == source
        elif name == 'reverse':
            assert [*target] == [*reversed(source)]
        elif name == 'addition':
            a, b = source.split('+')
            assert int(target) == int(a) + int(b) and max(len(a), len(b)) <= 3
        else:
            a, plus, b, equals = source.split()
            assert (plus, equals) == ('+', '=') and (int(a) + int(b) - int(target)) % 97 == 0
    ranges = {(min(lengths), max(lengths))
              for lengths in ([len(source) for source in part] for part in sources.values())}
    assert len(ranges) == 1
    counts = [len(part) for part in parts.values()]
    if name == 'modular_addition':
        assert sum(counts) == len(set().union(*sources.values())) == 97**2
        assert counts[0] / 97**2 == pytest.approx(0.5, abs=0.01)
    else:
        assert sum(counts) == 50_000
    assert parts['train'] == pairs_of('train', dataset=name)
    if name in ('copy', 'reverse'):
        assert ranges == {(1, 20)}
        letters = np.unique([*''.join(source for source, _ in parts['train'])], return_counts=True)
        assert len(letters[0]) == 26 and letters[1].min() > 0.9 * letters[1].max()


def test_generated_documents():
    parts = [texts_of(split, dataset='sentences') for split in SPLITS]
    firsts = [{document[0] for document in part} for part in parts]
    assert sum(map(len, firsts)) == len(set().union(*firsts))
    for document in itertools.chain(*parts):
        assert 2 <= len(document) <= 8 and all(line.endswith(' .') for line in document)
        assert len({tuple(line.split()[:3]) for line in document}) == 1  # of one animal
