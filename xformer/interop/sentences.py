"""What sentence-transformers keeps beside a model: how its vectors are made of token vectors."""

import json
from pathlib import Path
from typing import NamedTuple

from xformer.config import Config, UserError

MODULES = 'modules.json'
UNLIMITED = 10**6  # what tokenizers without a limit say is far beyond
_MODES = {'cls': 'pooling_mode_cls_token', 'mean': 'pooling_mode_mean_tokens',
          'max': 'pooling_mode_max_tokens'}
_POOLS = {pool: pool for pool in _MODES} | {mode: pool for pool, mode in _MODES.items()}


class Sentences(NamedTuple):
    """`pool` as `evaluate.embeddings` names it; whether vectors are made unit; where texts are cut
    (0: where the model ends); whether they are lower-cased first; what stands before each."""

    pool: str
    unit: bool
    max_length: int
    lowercase: bool
    prompt: str


def read_sentences(folder: Path) -> Sentences | None:
    """None for a folder without modules.json. Raises UserError for what is not supported."""
    if not (folder / MODULES).is_file():
        return None
    kinds = {kind: folder / path for kind, path in _modules(folder)}
    for kind in kinds.keys() - {'Transformer', 'Pooling', 'Normalize'}:
        raise UserError(f'{folder / MODULES} asks for a module {kind}, which is not supported; '
                        'Transformer, Pooling and Normalize are')
    for kind in {'Transformer', 'Pooling'} - kinds.keys():
        raise UserError(f'{folder / MODULES} has no {kind}; choose how with --pool')
    model = kinds['Transformer']
    about = next((_json(path) for path in sorted(model.glob('sentence_*_config.json'))), {})
    longest = about.get('max_seq_length') or _optional(
        model / 'tokenizer_config.json').get('model_max_length') or 0
    if not isinstance(longest, int | float):
        raise UserError(f'{model} says that texts are cut at {longest!r}, which is no number; '
                        'restore its files from a copy')
    return Sentences(_pool(kinds['Pooling'] / 'config.json'), 'Normalize' in kinds,
                     longest if longest < UNLIMITED else 0, bool(about.get('do_lower_case')),
                     _prompt(folder))


def write_sentences(folder: Path, pool: str, config: Config) -> None:
    """Beside the files of an encoder in `folder`, what makes such vectors of its tokens'."""
    kinds = {'Transformer': '', 'Pooling': '1_Pooling'}
    files = {
        MODULES: [{'idx': i, 'name': str(i), 'path': path,
                   'type': f'sentence_transformers.models.{kind}'}
                  for i, (kind, path) in enumerate(kinds.items())],
        'sentence_bert_config.json': {'max_seq_length': config.model.max_length,
                                      'do_lower_case': config.data.lowercase_source},
        f'{kinds["Pooling"]}/config.json': {
            'word_embedding_dimension': config.model.d_model,
            **{mode: name == pool for name, mode in _MODES.items()}}}
    for name, about in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(about, indent=2) + '\n', encoding='utf-8')


def _prompt(folder: Path) -> str:
    """That of every text for which no other is asked."""
    about = _optional(folder / 'config_sentence_transformers.json')
    name, prompts = about.get('default_prompt_name'), about.get('prompts') or {}
    if name and not isinstance(prompts, dict):
        raise UserError(f'{folder} has prompts that have no names; restore '
                        'config_sentence_transformers.json from a copy')
    return prompts.get(name) or '' if name else ''


def transformer_folder(folder: Path) -> Path:
    """Where the model itself is: older folders keep it in one of their own."""
    if not (folder / MODULES).is_file():
        return folder
    return folder / next((path for kind, path in _modules(folder) if kind == 'Transformer'), '')


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, path of its folder)"""
    try:
        return [(module['type'].rpartition('.')[2], str(module['path']))
                for module in _json(folder / MODULES, list)]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{folder / MODULES} is no list of modules ({error!r}); restore it from a '
                        'copy') from None


def _pool(path: Path) -> str:
    settings = _json(path)
    chosen = settings.get('pooling_mode', [
        name for name, value in settings.items() if name.startswith('pooling_mode_') and value])
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if settings.get('include_prompt') is False and _prompt(path.parents[1]):
        raise UserError(f'{path} leaves the prompt out of the pooling, which is not supported')
    if len(chosen) != 1 or chosen[0] not in _POOLS:
        raise UserError(f'{path} asks for pooling {", ".join(map(str, chosen)) or "of no kind"}; '
                        'one of cls, mean and max is supported')
    return _POOLS[chosen[0]]


def _optional(path: Path) -> dict:
    return _json(path) if path.is_file() else {}


def _json(path: Path, kind: type = dict):
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'cannot read {path} ({error}); restore it from a copy') from None
    if not isinstance(found, kind):
        raise UserError(f'{path} is no JSON {kind.__name__}; restore it from a copy')
    return found
