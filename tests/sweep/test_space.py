"""The language of spaces: what it means, by hand, and what it refuses."""

import itertools
from collections import Counter

import numpy as np
import optuna
import pytest

from xformer.config import Config, UserError, override
from xformer.sweep.space import check_conditions, draw, grid, parse_space, settings_of

CONFIG = override(Config(), {'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3})
ALL = '''
optim.peak_learning_rate = log 1e-4 .. 1e-2   # a comment
optim.warmup_steps = 0 .. 400 step 200
model.dropout = 0 .. 0.3; model.num_heads = 2 .. 4
model.positions = sinusoidal | rotary
model.d_model, model.d_ff = 128, 512 | 256, 1024
model.rotary_base = 100 | 10000 if model.positions = rotary
model.share_layers = true | false
'''


def test_a_grid_is_the_product_but_for_what_is_not_asked_for():
    space = parse_space('model.num_heads = 2 .. 4; model.positions = sinusoidal | rotary\n'
                        'model.rotary_base = 100 | 10000 if model.positions = rotary; '
                        'optim.warmup_steps = 0 .. 500 step 200', CONFIG)
    rows = [settings_of(space, CONFIG, lambda each, row=row: row[each.key])
            for row in grid(space, CONFIG)]
    expected = [
        {'model.num_heads': heads, 'model.positions': positions}
        | ({'model.rotary_base': base} if base else {}) | {'optim.warmup_steps': warmup}
        for heads, (positions, base), warmup in itertools.product(
            (2, 3, 4), (('sinusoidal', None), ('rotary', 100.0), ('rotary', 10_000.0)),
            (0, 200, 400))]
    assert rows == expected


def test_a_condition_may_ask_the_configuration():
    text = 'optim.decay_fraction = 0.1 | 0.2 if optim.schedule = wsd'
    space, config = parse_space(text, CONFIG), override(CONFIG, {'optim.schedule': 'wsd'})
    assert grid(space, CONFIG) == [{}] and len(grid(space, config)) == 2
    check_conditions(space, config)
    check_conditions(parse_space('optim.schedule = wsd | linear; ' + text, CONFIG), CONFIG)
    with pytest.raises(UserError, match="never varies .*: optim.schedule is 'constant'"):
        check_conditions(space, CONFIG)


def test_names_change_together():
    space = parse_space('model.d_model, model.d_ff = 128, 512 | 256, 1024', CONFIG)
    assert [settings_of(space, CONFIG, lambda each, row=row: row[each.key])
            for row in grid(space, CONFIG)] == [
        {'model.d_model': 128, 'model.d_ff': 512}, {'model.d_model': 256, 'model.d_ff': 1024}]


def test_draws_repeat_and_have_the_distribution_that_they_say():
    space = parse_space(ALL, CONFIG)
    rows = [draw(space, CONFIG, 7, number) for number in range(2000)]
    assert rows[5:9] == [draw(space, CONFIG, 7, number) for number in range(5, 9)]
    assert rows[5] != draw(space, CONFIG, 8, 5)
    rates = np.log10([row['optim.peak_learning_rate'] for row in rows])
    assert -4 <= rates.min() and rates.max() <= -2 and abs(rates.mean() + 3) < 0.05
    assert Counter(row['optim.warmup_steps'] for row in rows).keys() == {0, 200, 400}
    heads = Counter(row['model.num_heads'] for row in rows)
    assert heads.keys() == {2, 3, 4} and min(heads.values()) > 580  # of 667, sd 21
    for row in rows:
        assert ('model.rotary_base' in row) == (row['model.positions'] == 'rotary')
        assert 0 <= row['model.dropout'] <= 0.3
    assert 0.14 < np.mean([row['model.dropout'] for row in rows]) < 0.16


def test_optuna_is_asked_for_the_same():
    space = parse_space(ALL, CONFIG)
    params = draw(space, CONFIG, 0, 3)
    found = settings_of(space, CONFIG, lambda each: each.suggested(optuna.trial.FixedTrial(params)))
    assert found == settings_of(space, CONFIG, lambda each: params[each.key])
    assert isinstance(found['model.share_layers'], bool) and isinstance(found['model.d_ff'], int)


@pytest.mark.parametrize('text, sentence', [
    ('', 'varies nothing'), ('# nothing', 'varies nothing'),
    ('model.dropout', "'model.dropout': it must be NAME = VALUES"),
    ('model.dropot = 0 .. 1', "no field 'model.dropot'; did you mean 'model.dropout'"),
    ('model.num_heads = 1.5 | 2', "num_heads takes a whole number, not '1.5'"),
    ('model.positions = rotary | lerned', "did you mean 'learned'"),
    ('model.positions = rotary .. learned', 'a range is for numbers'),
    ('model.dropout = 0.3 .. 0.1', 'a range goes up'),
    ('optim.clip_norm = 0.5 .. inf', 'from a number to a number'),
    ('optim.clip_norm = 0.5 .. 1 step nan', 'a range goes up'),
    ('model.dropout = log 0 .. 0.1', 'begins above 0'),
    ('optim.warmup_steps = 0 .. 4 step 0', 'steps above 0'),
    ('model.dropout = 0.1 | 0.10', 'one choice twice'),
    ('model.d_model, model.d_ff = 1 | 2', "'1' has 1 values for 2 names"),
    ('model.d_model, model.d_ff = 1 .. 2', 'a range is for one name'),
    ('model.d_model = 1 | 2; model.d_model = 3 | 4', 'varies model.d_model twice'),
    ('train.seed = 0 | 1', 'give the number of --seeds'),
    ('model.dropout = 0 | 0.1 if model.norm', 'after `if` it must be'),
    ('model.rotary_base = 1 | 2 if model.positions = rotary; model.positions = rotary | none',
     'asks for model.positions before it varies it')])
def test_what_is_not_of_the_language(text, sentence):
    with pytest.raises(UserError) as found:
        parse_space(text, CONFIG)
    assert sentence in str(found.value)


@pytest.mark.parametrize('text, kind', [
    ('model.dropout = 0 .. 0.3', 'range without a step'),
    ('model.d_ff = log 16 .. 64', 'log range')])
def test_some_ranges_have_no_grid(text, kind):
    with pytest.raises(UserError, match=f'is a {kind}, of which there is no grid'):
        grid(parse_space(text, CONFIG), CONFIG)


def test_a_grid_of_fractions_ends_where_it_says():
    space = parse_space('model.dropout = 0 .. 0.3 step 0.1', CONFIG)
    assert [row['model.dropout'] for row in grid(space, CONFIG)] == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize('values, high', [
    ('0 .. 40 step 15', 30), ('0 .. 1000000000', 10**9)])  # too many to be listed
def test_draws_and_optuna_reach_the_last_step_and_no_further(values, high):
    space = parse_space(f'optim.warmup_steps = {values}', CONFIG)
    found = [draw(space, CONFIG, 0, number)['optim.warmup_steps'] for number in range(200)]
    assert 0.97 * high <= max(found) <= high and min(found) <= 0.03 * high
    trial = optuna.create_study().ask()
    space[0].suggested(trial)
    assert trial.distributions['optim.warmup_steps'].high == high


def test_whole_numbers_are_drawn_by_their_logarithms_too():
    space = parse_space('model.d_ff = log 16 .. 1024', CONFIG)
    found = [draw(space, CONFIG, 0, number)['model.d_ff'] for number in range(2000)]
    assert all(type(value) is int for value in found) and min(found) >= 16 and max(found) <= 1024
    assert 115 < np.median(found) < 142  # of 128, the middle of 2^4 .. 2^10
