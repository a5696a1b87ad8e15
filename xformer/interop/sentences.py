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
    (0: where the model ends)."""

    pool: str
    unit: bool
    max_length: int


def read_sentences(folder: Path) -> Sentences | None:
    """None for a folder without modules.json. Raises UserError for what is not supported."""
    if not (folder / MODULES).is_file():
        return None
    kinds = {module['type'].rpartition('.')[2]: folder / module['path']
             for module in _json(folder / MODULES)}
    for kind in kinds.keys() - {'Transformer', 'Pooling', 'Normalize'}:
        raise UserError(f'{folder / MODULES} asks for a module {kind}, which is not supported; '
                        'Transformer, Pooling and Normalize are')
    if 'Pooling' not in kinds:
        raise UserError(f'{folder / MODULES} has no Pooling; choose one with --pool')
    limits = kinds['Transformer'] / 'sentence_bert_config.json'
    limit = _json(limits).get('max_seq_length') if limits.is_file() else None
    return Sentences(_pool(kinds['Pooling'] / 'config.json'), 'Normalize' in kinds, limit or 0)


def transformer_folder(folder: Path) -> Path:
    """Where the model itself is: older folders keep it in one of their own."""
    if not (folder / MODULES).is_file():
        return folder
    paths = [module['path'] for module in _json(folder / MODULES)
             if module['type'].endswith('.Transformer')]
    return folder / (paths[0] if paths else '')


def _pool(path: Path) -> str:
    settings = _json(path)
    chosen = [settings.get('pooling_mode')] if 'pooling_mode' in settings else [
        name for name, value in settings.items() if name.startswith('pooling_mode_') and value]
    if len(chosen) != 1 or chosen[0] not in _POOLS:
        raise UserError(f'{path} asks for pooling {", ".join(map(str, chosen)) or "of no kind"}; '
                        'one of cls, mean and max is supported')
    return _POOLS[chosen[0]]


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path} ({error}); restore it from a copy') from None
