"""Hugging Face's config.json and our model configuration: a table of options, read both ways."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from xformer.config import ModelConfig, UserError

Theirs = dict[str, Any]  # what config.json says


class Option(NamedTuple):
    """One field of config.json, and the field of `ModelConfig` that means the same.

    `default` is what Hugging Face takes where config.json leaves the field out. Without `ours` no
    other value is supported. `read` and `write` turn theirs into ours and back.
    """

    theirs: str
    ours: str | None
    default: Any = None
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value


def fixed(**values: Any) -> list[Option]:
    """Options of which one value alone is supported."""
    return [Option(name, None, value) for name, value in values.items()]


def chosen(theirs: str, ours: str, default: str, names: dict[str, str]) -> Option:
    """An option with other names for its values: {theirs: ours}, of several the first is written.
    """
    def read(value):
        if value not in names:
            raise UserError(f'{theirs}={value!r} is not supported; there are: '
                            f'{", ".join(sorted(names))}')
        return names[value]

    back = {our: their for their, our in reversed(names.items())}
    return Option(theirs, ours, default, read, back.__getitem__)


ACTIVATIONS = {'gelu': 'gelu', 'gelu_new': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh',
               'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}


def to_model(theirs: Theirs, options: Sequence[Option]) -> Theirs:
    """{field of ModelConfig: value}. Raises UserError for a value that is not supported."""
    model = {}
    for option in options:
        value = theirs.get(option.theirs, option.default)
        if option.ours is None:
            if value != option.default:
                raise UserError(f'{option.theirs}={value!r} is not supported, only '
                                f'{option.default!r} is')
            continue
        value = option.read(value)
        if model.setdefault(option.ours, value) != value:
            first = next(other.theirs for other in options if other.ours == option.ours)
            raise UserError(f'{option.theirs}={theirs.get(option.theirs)!r} differs from {first}='
                            f'{theirs.get(first)!r}, which is not supported')
    return model


def to_theirs(model: ModelConfig, options: Sequence[Option]) -> Theirs:
    """The inverse of `to_model`. Raises UserError for a value that has no name there."""
    theirs = {}
    for option in options:
        if option.ours is None:
            theirs[option.theirs] = option.default
            continue
        value = getattr(model, option.ours)
        try:
            theirs.setdefault(option.theirs, option.write(value))
        except KeyError:
            raise UserError(f'model.{option.ours}={value} has no counterpart in {option.theirs}'
                            ) from None
    return theirs
