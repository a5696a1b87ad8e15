"""One file per experiment: CONFIG, and VARIANTS as changes to it by dotted name.

The docstring of each gives the source, the command, the expected time and figure.
"""

import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from xformer.config import Config, UserError, from_json, nearest, override

FOLDER = Path(__file__).parent


class Experiment(NamedTuple):
    """A configuration, the name for its run folder, and what a sweep of it varies."""

    name: str
    config: Config
    space: str | None = None


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob('*.py') if not path.stem.startswith('__'))


def variants(name: str) -> list[str]:
    """The variants of an experiment there is."""
    return list(_module(FOLDER / f'{name}.py').VARIANTS)


def load(spec: str) -> Experiment:
    """Of NAME, NAME:variant, or a .py or .json FILE. A .py file may have a SPACE."""
    path = Path(spec)
    if path.suffix == '.json':
        return Experiment(path.stem, from_json(_read(path), spec))
    if path.suffix == '.py':
        _read(path)
        return _experiment(path.stem, _module(path), {})
    name, colon, variant = spec.partition(':')
    if name not in names():
        raise UserError(f'there is no experiment {name!r}{nearest(name, names())}')
    module = _module(FOLDER / f'{name}.py')
    if not colon:
        return _experiment(name, module, {})
    if variant not in module.VARIANTS:
        raise UserError(f'experiment {name} has no variant {variant!r}'
                        f'{nearest(variant, module.VARIANTS)}')
    return _experiment(f'{name}-{variant}', module, module.VARIANTS[variant])


def _experiment(name: str, module: ModuleType, changes: Mapping[str, Any]) -> Experiment:
    return Experiment(name, override(module.CONFIG, changes), getattr(module, 'SPACE', None))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is not UTF-8'
        raise UserError(f'cannot read --config={path} ({reason}); check the path') from None


def _module(path: Path):
    """The file, run; unlike an import this writes nothing beside it."""
    module = ModuleType(f'experiments.configs.{path.stem}')
    try:
        exec(compile(_read(path), path, 'exec'), vars(module))
    except Exception as error:  # whatever goes wrong in the user's file is theirs to mend
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(path)]
        line = getattr(error, 'lineno', None) or lines[-1]
        raise UserError(f'{path}:{line}: {getattr(error, "msg", error)}; correct the file'
                        ) from None
    if not isinstance(getattr(module, 'CONFIG', None), Config):
        raise UserError(f'{path} does not define CONFIG = Config(...)')
    return module
