"""Seeds that are trained together learn what each learns alone."""

import pytest

from benchmarks import seeds


def test_seeds_trained_together_are_those_trained_alone(monkeypatch):
    monkeypatch.setattr(seeds, 'CASES', {'tiny': (1, 8, 2, 4, 2)})
    case = seeds.measure(1, ['one-by-one'])['tiny']
    assert case['parity']['one-by-one']['parameters'] < 1e-5
    assert set(case['rounds'][0]) == {'xformer', 'one-by-one'}


def test_a_seed_that_is_not_its_own_is_noticed(monkeypatch):
    monkeypatch.setattr(seeds, 'CASES', {'tiny': (1, 8, 2, 4, 2)})

    class Other(seeds.Together):
        def __init__(self, config):
            super().__init__(config)
            self.seeds_R = self.seeds_R[::-1]
            self.state = seeds.jax.tree.map(lambda leaf: leaf[::-1], self.state)

    monkeypatch.setattr(seeds, 'Together', Other)
    with pytest.raises(RuntimeError, match='loss differs'):
        seeds.measure(1, ['one-by-one'])
