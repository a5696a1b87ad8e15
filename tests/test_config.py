"""Configurations: text in, text out, and one sentence for every mistake in reading them."""

import dataclasses
import json
import subprocess
import sys

import pytest

from xformer.config import (
    Config,
    Ending,
    UserError,
    diff,
    from_json,
    leaves,
    nearest,
    override,
    read_config,
    to_flat,
    to_json,
)

GOOD = {'data.train': 'pairs.tsv', 'optim.peak_learning_rate': 0.001, 'optim.warmup_steps': 100}


def good(**changes) -> Config:
    return override(Config(), GOOD | {name.replace('__', '.'): value
                                      for name, value in changes.items()})


def other_value(leaf: dataclasses.Field):
    """A value of the right type that is not the default."""
    choices = leaf.metadata['choices']
    if choices:
        return next((choice for choice in choices if choice != leaf.default), leaf.default)
    return {int: 12345, float: 0.1 + 0.2, bool: not leaf.default, str: 'ü "x"\n'}[leaf.type]


def test_every_option_survives_json_bit_for_bit():
    changes = {name: other_value(leaf) for name, leaf in leaves().items()}
    config = override(Config(), changes)
    assert from_json(to_json(config)) == config
    assert to_flat(config) == changes
    assert json.loads(to_json(config))['optim']['beta2'] == 0.1 + 0.2


def test_every_option_has_a_meaning_and_a_default_it_would_accept():
    for name, leaf in leaves().items():
        assert leaf.metadata['meaning'], name
        assert not leaf.metadata['choices'] or leaf.default in leaf.metadata['choices']
        assert override(Config(), {name: leaf.default}) == Config()
        assert override(Config(), {name: str(leaf.default)}) == Config()


@pytest.mark.parametrize(('name', 'text', 'value'), [
    ('model.d_model', '256', 256), ('model.d_model', 256, 256), ('train.seed', '0', 0),
    ('model.dropout', '0.25', 0.25), ('model.dropout', '1e-3', 1e-3), ('model.dropout', 0, 0.0),
    ('model.remat', 'true', True), ('model.remat', 'True', True), ('model.remat', '1', True),
    ('model.remat', 'no', False), ('model.remat', False, False),
    ('model.activation', 'gelu', 'gelu'), ('data.train', '12', '12'), ('data.train', '', '')])
def test_values_are_read_as_the_fields_type(name, text, value):
    result = to_flat(override(Config(), {name: text}))[name]
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(('name', 'value', 'message'), [
    ('model.d_model', '12.5', "model.d_model takes a whole number, not '12.5'"),
    ('model.d_model', 12.0, 'takes a whole number, not 12.0'),
    ('model.d_model', True, 'takes a whole number, not True'),
    ('model.d_model', '', 'takes a whole number'),
    ('model.d_model', None, 'takes a whole number, not None'),
    ('model.dropout', 'much', "model.dropout takes a number, not 'much'"),
    ('model.dropout', True, 'takes a number, not True'),
    ('model.remat', 'maybe', "model.remat takes true or false, not 'maybe'"),
    ('model.remat', 1, 'takes true or false, not 1'),
    ('data.train', 12, 'data.train takes text, not 12'),
    ('model.activation', 'gleu', "geglu, geglu_tanh, swiglu, not 'gleu'; did you mean 'gelu'"),
    ('model.family', 'decode',
     "model.family is one of seq2seq, encoder, decoder, not 'decode'; did you mean 'decoder'"),
    ('model.tie_embeddings', 'true', "one of all, inputs, none, not 'true'"),
    ('data.source_tokenizer', 'char', "'data.source_tokenizer'; did you mean 'data."),
    ('model.dmodel', 1, "config has no field 'model.dmodel'; did you mean 'model.d_model'"),
    ('optimizer.beta2', 1, "'optimizer.beta2'; did you mean 'optim.beta2'"),
    ('beta2', 1, "'beta2'; did you mean 'optim.beta2'"),
    ('xyzzy', 1, "'xyzzy'; see --help"),
    ('model', 1, "config has no field 'model'")])
def test_mistakes_are_named(name, value, message):
    with pytest.raises(UserError) as caught:
        override(Config(), {name: value})
    assert message in str(caught.value)


def test_a_user_error_ends_with_exit_code_2():
    assert issubclass(UserError, Ending) and UserError('x').exit_code == 2


def test_an_override_is_a_copy():
    before = Config()
    assert override(before, {'model.d_ff': 3}).model.d_ff == 3 and before == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.model.d_ff = 3


def test_nearest_hints():
    assert nearest('transformer-bse', ['transformer-base', 'x']) == \
        "; did you mean 'transformer-base'?"
    assert nearest('zzz', ['b', 'a']) == '; there are: a, b'
    assert nearest('zzz', map(str, range(40))).startswith('; there are: 0, 1, 10')
    assert nearest('zzz', map(str, range(41))) == '; see --help'


def test_differences():
    before, after = good(), good(optim__beta2=0.999, model__remat=True)
    assert diff(before, after) == {'optim.beta2': (0.98, 0.999), 'model.remat': (False, True)}
    assert diff(before, before) == {}


@pytest.mark.parametrize(('text', 'message'), [
    ('{', 'here.json is not valid JSON'), ('[]', 'here.json is not a configuration'),
    ('{"model": 3}', 'here.json is not a configuration'),
    ('{"model": {"d_modell": 3}}', "here.json.*'model.d_modell'; did you mean 'model.d_model'"),
    ('{"model": {"d_model": "x"}}', "here.json.*model.d_model takes a whole number, not 'x'")])
def test_damaged_files_are_named(text, message):
    with pytest.raises(UserError, match=message):
        from_json(text, 'here.json')


def test_read_config(tmp_path):
    (tmp_path / 'config.json').write_text(to_json(good(train__seed=5)), encoding='utf-8')
    assert read_config(tmp_path) == good(train__seed=5)
    with pytest.raises(UserError, match='not a run folder .it does not exist'):
        read_config(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='not a run folder .it holds no config.json'):
        read_config(tmp_path / 'empty')
    (tmp_path / 'empty' / 'config.json').write_bytes(b'\xff{')
    with pytest.raises(UserError, match='config.json is not UTF-8'):
        read_config(tmp_path / 'empty')


def test_it_loads_nothing_but_the_standard_library():
    code = ('import sys; before = set(sys.modules); import xformer.config; '
            'print({name.split(".")[0] for name in set(sys.modules) - before}'
            ' - set(sys.stdlib_module_names))')
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                             check=True).stdout
    assert printed.strip() == "{'xformer'}"
