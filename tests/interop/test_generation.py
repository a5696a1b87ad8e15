"""Outputs are those of transformers' generate, token by token, under the folder's own settings."""

import json

import numpy as np
import pytest
from golden_checkpoints import make_folder, read
from parity import opened

from xformer.checks import validate
from xformer.compiled import Compilations
from xformer.config import Config, UserError, end_ids, override
from xformer.decode.generate import Generator
from xformer.interop.folder import open_checkpoint
from xformer.interop.generation import read_generation, to_config, write_generation
from xformer.models import build

ROOM = 40
FIELDS = ('family', 'positions', 'pad_id', 'bos_id', 'eos_id', 'max_length')
WRITTEN = {  # our settings, for a model of 40 positions
    'greedy': {'decode.beam_size': 1, 'decode.repetition_penalty': 1.5, 'decode.min_length': 3,
               'decode.more_ends': '5,7'},
    'beam': {'decode.beam_size': 5, 'decode.alpha': 0.7, 'decode.early_stopping': 'never',
             'decode.no_repeat_ngram': 3, 'decode.renormalise': True, 'decode.max_length': 20},
    'new tokens': {'decode.beam_size': 2, 'decode.early_stopping': 'false',
                   'decode.max_new_tokens': 7, 'decode.end_at_limit': True},
    'sample': {'decode.strategy': 'sample', 'decode.beam_size': 1, 'decode.temperature': 0.7,
               'decode.top_k': 9, 'decode.top_p': 0.8, 'decode.min_p': 0.1}}
KINDS = {'GPT2LMHeadModel': {'n_positions': ROOM},
         'LlamaForCausalLM grouped': {'max_position_embeddings': ROOM},
         # transformers' caches have room for as many decoder layers as there are in the encoder
         'T5ForConditionalGeneration': {'num_layers': 3},
         'MT5ForConditionalGeneration': {'num_layers': 3},
         'BartForConditionalGeneration': {'max_position_embeddings': ROOM},
         'MarianMTModel': {'max_position_embeddings': ROOM}}
SETTINGS = {
    'greedy': {'max_length': 20},
    'greedy without repeats': {'max_length': 20, 'no_repeat_ngram_size': 2, 'min_length': 9,
                               'repetition_penalty': 1.7},
    'beams': {'num_beams': 4, 'max_length': 16},
    'short beams': {'num_beams': 3, 'max_new_tokens': 9, 'early_stopping': True,
                    'length_penalty': 0.3},
    'long beams': {'num_beams': 3, 'max_length': 18, 'early_stopping': 'never', 'min_length': 12,
                   'length_penalty': 2.0, 'no_repeat_ngram_size': 3},
    'several ends': {'max_length': 20, 'min_length': 6, 'eos_token_id': range(8, 30, 3)},
    'beams to several ends': {'num_beams': 3, 'max_length': 20, 'eos_token_id': range(8, 30, 3)},
    'renormalised beams': {'num_beams': 2, 'max_length': 14, 'renormalize_logits': True,
                           'repetition_penalty': 1.3}}


def compared(kind, settings, folder):
    """(outputs of ours, of theirs) for eight inputs."""
    torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
    torch_models = pytest.importorskip('torch_models')
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = torch_models.make(kind, **KINDS[kind])
    config = model.config
    start, bos = (getattr(config, f'{role}_token_id', None) for role in ('decoder_start', 'bos'))
    never = {config.pad_token_id, bos if start is None else start}
    never -= {None, config.eos_token_id}
    if more := settings.get('eos_token_id'):
        settings = settings | {'eos_token_id': [config.eos_token_id, *more]}
    forced = {'forced_bos_token_id': 7, 'forced_eos_token_id': config.eos_token_id} if (
        kind.startswith('Bart')) else {}
    model.generation_config = transformers.GenerationConfig(
        **{'bos_token_id': bos, 'eos_token_id': config.eos_token_id,
           'pad_token_id': config.pad_token_id, 'decoder_start_token_id': start,
           'bad_words_ids': [[token] for token in never] or None} | forced | settings)
    model.save_pretrained(folder)
    found, params = opened(folder)
    assert not found.aside
    ours = validate(override(found.config, {'model.pad_id': config.eos_token_id} if (
        config.pad_token_id is None) else {}))
    draw = np.random.default_rng(0)
    inputs = [draw.integers(8, 40, size=n).tolist() for n in (1, 5, 4, 7, 2, 6, 8, 3)]
    begins = [bos] if kind.startswith('Llama') else []
    expected = []
    for ids in inputs:
        given = torch.tensor([begins + ids])
        written = model.generate(given, attention_mask=torch.ones_like(given))[0].tolist()
        ended = 1 if config.is_encoder_decoder else given.shape[1]
        expected.append(written[ended:])
    generator = Generator(build(ours), ours, params, Compilations(), after_bos=bool(begins))
    return [outputs[0].ids for outputs in generator(inputs)], expected


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_same_tokens(kind, settings, tmp_path, parity_table):
    ours, expected = compared(kind, SETTINGS[settings], tmp_path)
    assert ours == expected
    found = json.loads((tmp_path / 'config.json').read_text())['model_type']
    parity_table(found, {'generate': 0.0})


@pytest.mark.parametrize('there, ends', [
    (5, [5]), ([5], [5]), ([2, 5], [2, 5]), ([5, 2, 6], [2, 5, 6]), ([5, 6], [5, 6])])
def test_where_outputs_end(there, ends, tmp_path):
    """generation_config.json decides, as there; the model's own end is the first of several."""
    config, tensors, _, _ = read('llama')
    make_folder(tmp_path, config | {'eos_token_id': 2}, tensors)
    (tmp_path / 'generation_config.json').write_text(json.dumps({'eos_token_id': there}))
    found = open_checkpoint(tmp_path)
    assert end_ids(validate(found.config)) == ends and not found.aside


def test_several_ends_in_config_json(tmp_path):
    config, tensors, _, _ = read('llama')
    found = open_checkpoint(make_folder(tmp_path, config | {'eos_token_id': [2, 5]}, tensors))
    assert end_ids(found.config) == [2, 5] and not found.aside


def opened_with(name, folder, settings, apart=True):
    """(decode settings, what is left aside) of a golden folder with these generation settings."""
    config, tensors, _, _ = read(name)
    make_folder(folder, config if apart else config | settings, tensors)
    if apart:
        (folder / 'generation_config.json').write_text(json.dumps(settings))
    found = open_checkpoint(folder)
    return validate(found.config).decode, found.aside


def test_settings_stand_in_their_own_file_or_in_config_json(tmp_path):
    settings = {'num_beams': 4, 'max_length': 5, 'early_stopping': True, 'no_repeat_ngram_size': 3,
                'length_penalty': 2.0, 'forced_eos_token_id': 2, 'forced_bos_token_id': 0}
    one, two = (opened_with('bart', tmp_path / str(apart), settings, apart)[0]
                for apart in (True, False))
    assert one == two and (one.beam_size, one.alpha, one.early_stopping) == (4, 2.0, 'true')
    assert (one.max_length, one.no_repeat_ngram, one.first_token) == (4, 3, 0) and one.end_at_limit


def test_lengths_count_as_there(tmp_path):
    """GPT-2's prompts begin with nothing, Llama's with a token that only they count."""
    settings = {'max_length': 9, 'min_length': 4}
    gpt2, _ = opened_with('gpt2', tmp_path / 'gpt2', settings)
    llama, _ = opened_with('llama', tmp_path / 'llama', settings)
    assert (gpt2.max_length, gpt2.min_length) == (9, 5)
    assert (llama.max_length, llama.min_length) == (8, 4)


def test_sampling(tmp_path):
    decode, aside = opened_with('gpt2', tmp_path, {'do_sample': True, 'top_p': 0.9, 'min_p': 0.1})
    assert (decode.strategy, decode.top_k, decode.top_p, decode.min_p) == ('sample', 50, 0.9, 0.1)
    assert aside == []


@pytest.mark.parametrize('name, settings', [
    ('bart', {'bad_words_ids': [[3, 4]]}), ('bart', {'forced_eos_token_id': [2, 3]}),
    ('gpt2', {'typical_p': 0.5}),
    ('gpt2', {'num_beams': 2, 'do_sample': True}),
    ('llama', {'stop_strings': ['x']}), ('llama', {'forced_bos_token_id': 3})])
def test_what_is_not_supported_is_told(name, settings, tmp_path):
    _, aside = opened_with(name, tmp_path, settings)
    assert [each.partition('=')[0] in settings for each in aside] == [True]


@pytest.mark.parametrize('text', ['{', '[1]', '{"max_length": "x"}', '{"num_beams": []}'])
def test_a_file_that_is_damaged(text, tmp_path):
    config, tensors, _, _ = read('gpt2')
    make_folder(tmp_path, config, tensors)
    (tmp_path / 'generation_config.json').write_text(text)
    with pytest.raises(UserError, match='.+'):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize('model', [
    {'model.family': 'decoder', 'model.positions': 'learned'},
    {'model.family': 'decoder', 'model.positions': 'rotary'}, {}, {'model.positions': 'relative'}])
@pytest.mark.parametrize('settings', WRITTEN)
def test_settings_are_read_as_they_were_written(settings, model, tmp_path):
    config = override(Config(), model | WRITTEN[settings] | {
        'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2, 'model.max_length': ROOM,
        'decode.length_penalty': 'length'} | (
            {} if model else {'decode.first_token': 4}))
    assert write_generation(tmp_path, config) == []
    changes, aside = to_config(read_generation(tmp_path, {}), config.model)
    assert not aside
    again = override(override(Config(), {f'model.{name}': getattr(config.model, name)
                                         for name in FIELDS}), changes)
    unlimited = not (config.decode.max_length or config.decode.max_new_tokens)
    said = unlimited and config.model.positions != 'relative'  # these have no last one
    expected = {'decode.max_length': ROOM} if said else {}
    if config.decode.beam_size == 1:  # of one hypothesis these say nothing
        expected |= {f'decode.{name}': getattr(again.decode, name)
                     for name in ('alpha', 'early_stopping', 'length_penalty', 'beam_size')}
    assert again == override(config, expected)


def test_what_settings_cannot_say_is_told(tmp_path):
    config = override(Config(), {'decode.beam_groups': 2})
    assert write_generation(tmp_path, config) == [
        'decode.length_penalty=gnmt (it is written as length)', 'decode.beam_groups=2']
