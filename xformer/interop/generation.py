"""What a Hugging Face folder says of generation, as our settings of decoding, and back.

It stands in generation_config.json or, in folders without that file, in config.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xformer.config import Config, DecodeConfig, ModelConfig, UserError, end_ids

FILE = 'generation_config.json'
_SAME = {'length_penalty': 'alpha', 'repetition_penalty': 'repetition_penalty',
         'no_repeat_ngram_size': 'no_repeat_ngram', 'max_new_tokens': 'max_new_tokens',
         'renormalize_logits': 'renormalise'}
_DRAWN = ('temperature', 'top_k', 'top_p', 'min_p')  # without a meaning where nothing is drawn
_NEUTRAL = {  # what is returned, how fast, and what config.json says of the model itself
    'transformers_version', '_from_model_config', 'use_cache', 'output_attentions',
    'output_hidden_states', 'output_scores', 'output_logits', 'return_dict_in_generate',
    'num_return_sequences', 'bos_token_id', 'pad_token_id', *_DRAWN}
_OFF = {  # values without effect of what is not supported
    'diversity_penalty': 0, 'encoder_repetition_penalty': 1, 'num_beam_groups': 1, 'typical_p': 1,
    'epsilon_cutoff': 0, 'eta_cutoff': 0, 'encoder_no_repeat_ngram_size': 0, 'penalty_alpha': 0,
    'remove_invalid_values': False, 'guidance_scale': 1, 'min_new_tokens': 0, 'top_h': 1,
    'exponential_decay_length_penalty': None, 'suppress_tokens': None, 'stop_strings': None,
    'begin_suppress_tokens': None, 'sequence_bias': None, 'max_time': None}
_TASKS = {'translate': 'translation', 'summarize': 'summarization'}  # as their names for each begin
NAMES = {*_SAME, *_NEUTRAL, *_OFF, 'do_sample', 'num_beams', 'early_stopping', 'max_length',
         'min_length', 'forced_bos_token_id', 'forced_eos_token_id', 'bad_words_ids',
         'eos_token_id', 'decoder_start_token_id'}  # that config.json may hold


def read_generation(folder: Path, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, from config.json (`theirs`) where there is no file of their own."""
    path, found = folder / FILE, {name: theirs[name] for name in theirs if name in NAMES}
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding='utf-8')))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f'{path} is no JSON object ({error}); restore it from a copy') from None
    return {name: value for name, value in found.items() if value is not None}


def read_task(folder: Path, task: str) -> tuple[str, str, dict[str, Any]]:
    """(translate or summarize, what stands before each text, all settings of generation), of what
    config.json says of that task; without such a word the last two are empty.

    `task` is one of the two or a name of theirs. Raises UserError for one that is neither, and
    where theirs are several of the kind.
    """
    theirs = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    every = theirs.get('task_specific_params') or {}
    if not (isinstance(every, dict) and all(
            isinstance(about, dict) and isinstance(about.get('prefix', ''), str)
            for about in every.values())):
        raise UserError(f'{folder / "config.json"} has task_specific_params that are no settings '
                        'by task; restore it from a copy')
    exact = _TASKS.get(task, task)
    names = [exact] if exact in every else [
        name for name in every if name.startswith(_TASKS.get(task, '\0'))]
    kind = next((ours for ours, begins in _TASKS.items()
                 if task == ours or task in names and task.startswith(begins)), None)
    if kind is None:
        known = [*_TASKS, *(name for name in every if name.startswith(tuple(_TASKS.values())))]
        raise UserError(f'{folder} has no task {task!r}; there are: {", ".join(known)}')
    if len(names) > 1:
        raise UserError(f'--task={task} may be any of {", ".join(names)} of {folder}; give one of '
                        'them as --task')
    if not names:
        return kind, '', {}
    settings = dict(every[names[0]])
    prefix = settings.pop('prefix', '')
    return kind, prefix, read_generation(folder, theirs) | settings


def to_config(given: Mapping[str, Any], model: ModelConfig) -> tuple[dict[str, Any], list[str]]:
    """(settings by their dotted names, those of theirs that have no counterpart: 'name=value').

    As there, greedy unless the settings say otherwise. Theirs count what outputs of seq2seq and
    prompts begin with, which ours do not, but for GPT-2, whose prompts begin with nothing.
    """
    begins, beams, known = _begins(model), given.get('num_beams', 1), {}
    eos, *more = _ends(given, model)
    decode = {'strategy': 'beam', 'beam_size': beams, 'length_penalty': 'length', 'alpha': 1.0,
              'early_stopping': str(given.get('early_stopping', False)).lower(),
              'more_ends': ','.join(map(str, more))}
    decode |= {ours: given[name] for name, ours in _SAME.items() if name in given}
    if given.get('do_sample'):
        decode |= {'strategy': 'sample', 'top_k': 50}
        decode |= {name: given[name] for name in _DRAWN if name in given}
        del decode['beam_size'], decode['early_stopping']
        known['num_beams'] = 1
    if 'max_length' in given and 'max_new_tokens' not in given and (
            model.positions != 'relative' or given['max_length'] - begins < model.max_length):
        decode['max_length'] = min(given['max_length'] - begins, model.max_length)
    if given.get('min_length'):
        decode['min_length'] = given['min_length'] + (not begins)
    if given.get('forced_eos_token_id') == eos:
        decode['end_at_limit'] = True
    else:
        known['forced_eos_token_id'] = None
    changes = {'model.eos_id': eos} | {f'decode.{name}': value for name, value in decode.items()}
    if model.family == 'seq2seq':
        changes |= {name: given[theirs] for name, theirs in (
            ('decode.first_token', 'forced_bos_token_id'),
            ('model.bos_id', 'decoder_start_token_id')) if theirs in given}
    else:
        known |= {'forced_bos_token_id': None, 'decoder_start_token_id': None}
    if any(word not in ([model.pad_id], [model.bos_id]) for word in given.get('bad_words_ids', [])):
        known['bad_words_ids'] = None  # the two are never written anyway
    return changes, [f'{name}={value}' for name, value in given.items()
                     if name not in NAMES or value != (known | _OFF).get(name, value)]


def _ends(given: Mapping[str, Any], model: ModelConfig) -> list[int]:
    """What ends an output; the model's own end token first, if it is among them."""
    said = given.get('eos_token_id', model.eos_id)
    ends = said if isinstance(said, list) and said else [said]
    return sorted(ends, key=lambda end: end != model.eos_id)


def _begins(model: ModelConfig) -> bool:
    """Whether theirs count a token that begins, which ours do not; GPT-2's texts have none."""
    return not (model.family == 'decoder' and model.positions == 'learned')


def write_generation(folder: Path, config: Config) -> list[str]:
    """Write the settings of a model that writes; returns those that have no counterpart there."""
    model, decode = config.model, config.decode
    begins, aside = _begins(model), _without_counterpart(decode)
    beams = decode.strategy == 'beam' and decode.beam_size > 1
    eos, *more = end_ids(config)
    given = {'pad_token_id': model.pad_id, 'eos_token_id': [eos, *more] if more else eos,
             'decoder_start_token_id' if model.family == 'seq2seq' else 'bos_token_id':
             model.bos_id, 'repetition_penalty': decode.repetition_penalty,
             'no_repeat_ngram_size': decode.no_repeat_ngram,
             'renormalize_logits': decode.renormalise}
    if decode.max_new_tokens:
        given['max_new_tokens'] = decode.max_new_tokens
    else:  # where nothing is said, theirs is 20 new ones
        given['max_length'] = (decode.max_length or model.max_length) + begins
    if decode.min_length:
        given['min_length'] = decode.min_length - (not begins)
    if decode.strategy == 'sample':
        given |= {'do_sample': True} | {name: getattr(decode, name) for name in _DRAWN}
    if beams:
        given |= {'num_beams': decode.beam_size, 'early_stopping': {
            'true': True, 'false': False}.get(decode.early_stopping, decode.early_stopping),
                  'length_penalty': decode.alpha}
    if decode.first_token >= 0:
        given['forced_bos_token_id'] = decode.first_token
    if decode.end_at_limit:
        given['forced_eos_token_id'] = model.eos_id
    (folder / FILE).write_text(json.dumps(given, indent=2, sort_keys=True) + '\n')
    return aside


def _without_counterpart(decode: DecodeConfig) -> list[str]:
    """Settings that have an effect here and none there."""
    lost = []
    if decode.strategy == 'beam' and decode.beam_size > 1:
        if decode.length_penalty == 'gnmt' and decode.alpha:
            lost.append('decode.length_penalty=gnmt (it is written as length)')
        if decode.beam_groups > 1:
            lost.append(f'decode.beam_groups={decode.beam_groups}')
    return lost
