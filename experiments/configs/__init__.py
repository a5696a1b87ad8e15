"""One file per experiment: CONFIG, and VARIANTS as changes to it by dotted name.

The docstring of each gives the source, the command, the expected time and figure.
"""

import traceback
from pathlib import Path
from types import ModuleType

from xformer.config import Config, UserError, from_json, nearest, override

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob('*.py') if not path.stem.startswith('__'))


def variants(name: str) -> list[str]:
    """The variants of an experiment there is."""
    return list(_module(FOLDER / f'{name}.py').VARIANTS)


def load(spec: str) -> tuple[str, Config]:
    """(name for the run folder, configuration) of NAME, NAME:variant, or a .py or .json FILE."""
    path = Path(spec)
    if path.suffix == '.json':
        return path.stem, from_json(_read(path), spec)
    if path.suffix == '.py':
        _read(path)
        return path.stem, _module(path).CONFIG
    name, colon, variant = spec.partition(':')
    if name not in names():
        raise UserError(f'there is no experiment {name!r}{nearest(name, names())}')
    module = _module(FOLDER / f'{name}.py')
    if not colon:
        return name, module.CONFIG
    if variant not in module.VARIANTS:
        raise UserError(f'experiment {name} has no variant {variant!r}'
                        f'{nearest(variant, module.VARIANTS)}')
    return f'{name}-{variant}', override(module.CONFIG, module.VARIANTS[variant])


def space(spec: str) -> str | None:
    """What a sweep of it varies: SPACE of the file, if it has one."""
    path = Path(spec)
    if path.suffix == '.json':
        return None
    path = path if path.suffix == '.py' else FOLDER / f'{spec.partition(":")[0]}.py'
    return getattr(_module(path), 'SPACE', None)


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
