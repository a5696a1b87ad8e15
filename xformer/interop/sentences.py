"""What sentence-transformers keeps beside a model: how its vectors are made of token vectors."""

import json
from pathlib import Path
from typing import NamedTuple

from xformer.config import UserError

MODULES = 'modules.json'
_POOLS = {'cls': 'cls', 'mean': 'mean', 'max': 'max',
          'pooling_mode_cls_token': 'cls', 'pooling_mode_mean_tokens': 'mean',
          'pooling_mode_max_tokens': 'max'}


class Sentences(NamedTuple):
    """`pool` as `evaluate.embeddings` names it; whether vectors are made unit; where texts are cut
    (0: where the model ends); whether they are lower-cased first."""

    pool: str
    unit: bool
    max_length: int
    lowercase: bool


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
    path = kinds['Transformer'] / 'sentence_bert_config.json'
    about = _json(path) if path.is_file() else {}
    return Sentences(_pool(kinds['Pooling'] / 'config.json'), 'Normalize' in kinds,
                     about.get('max_seq_length') or 0, bool(about.get('do_lower_case')))


def transformer_folder(folder: Path) -> Path:
    """Where the model itself is: older folders keep it in one of their own."""
    if not (folder / MODULES).is_file():
        return folder
    return folder / next((path for kind, path in _modules(folder) if kind == 'Transformer'), '')


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, path of its folder)"""
    try:
        return [(module['type'].rpartition('.')[2], module['path'])
                for module in _json(folder / MODULES, list)]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{folder / MODULES} is no list of modules ({error!r}); restore it from a '
                        'copy') from None


def _pool(path: Path) -> str:
    settings = _json(path)
    chosen = [settings.get('pooling_mode')] if 'pooling_mode' in settings else [
        name for name, value in settings.items() if name.startswith('pooling_mode_') and value]
    if len(chosen) != 1 or chosen[0] not in _POOLS:
        raise UserError(f'{path} asks for pooling {", ".join(map(str, chosen)) or "of no kind"}; '
                        'one of cls, mean and max is supported')
    return _POOLS[chosen[0]]


def _json(path: Path, kind: type = dict):
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'cannot read {path} ({error}); restore it from a copy') from None
    if not isinstance(found, kind):
        raise UserError(f'{path} is no JSON {kind.__name__}; restore it from a copy')
    return found
