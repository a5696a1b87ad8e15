"""What a sweep varies: a small language over the dotted names of the configuration.

    optim.peak_learning_rate = log 1e-4 .. 1e-2
    optim.warmup_steps = 0 .. 400 step 100
    model.dropout = 0 .. 0.3
    model.positions = sinusoidal | learned | rotary
    model.d_model, model.d_ff = 128, 512 | 256, 1024
    optim.final_fraction = 0 .. 0.2 if optim.schedule = cosine | linear

A line for each, or several separated by semicolons; # begins a comment. Names that stand together
change together. What comes after `if` is varied in a line before it, or is as the configuration has
it.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xformer.config import Config, UserError, leaves, nearest, override, parse_value, to_flat

Settings = dict[str, Any]  # {dotted name: value}
_RANGE = re.compile(r'(log\s+)?(\S+)\s*\.\.\s*(\S+?)(?:\s+step\s+(\S+))?')


@dataclass(frozen=True)
class Dimension:
    """Names that change together, among `choices`, or one from `low` to `high`, both included."""

    names: tuple[str, ...]
    choices: tuple[tuple[Any, ...], ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    condition: tuple[str, tuple[Any, ...]] | None = None

    @property
    def key(self) -> str:
        return ', '.join(self.names)

    @property
    def labels(self) -> list[str]:
        """The choices as a person reads them."""
        return [', '.join(map(str, choice)) for choice in self.choices]

    def settings(self, param: Any) -> Settings:
        """What one of the labels, or a number, stands for."""
        values = self.choices[self.labels.index(param)] if self.choices else (param,)
        return dict(zip(self.names, values))

    def listed(self) -> list[Any]:
        """All that it can be. Raises UserError for a range without a step."""
        if self.choices:
            return self.labels
        if self.step is None or self.log:
            kind = 'log range' if self.log else 'range without a step'
            raise UserError(f'{self.key} is a {kind}, of which there is no grid; '
                            'give it a step, or choices, or take another --sampler')
        return [self._stepped(i) for i in range(self._steps + 1)]

    @property
    def _last(self) -> float:
        """The highest value: what steps of this size reach."""
        return self.high if self.step is None else self._stepped(self._steps)

    @property
    def _steps(self) -> int:
        return math.floor((self.high - self.low) / self.step + 1e-9)

    def _stepped(self, i: int) -> float:
        value = self.low + i * self.step
        return value if isinstance(value, int) else float(f'{value:.12g}')

    def drawn(self, random: np.random.Generator) -> Any:
        """One of them, each as probable as the others; of a log range by the logarithm."""
        if self.log:
            value = float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))
            return round(value) if isinstance(self.low, int) else value
        if self.choices:
            return random.choice(np.array(self.labels, object))
        if self.step is not None:
            return self._stepped(int(random.integers(self._steps + 1)))
        return float(random.uniform(self.low, self.high))

    def suggested(self, trial) -> Any:
        """What Optuna takes."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.labels)
        if isinstance(self.low, int):
            return trial.suggest_int(self.key, self.low, self._last, step=self.step, log=self.log)
        return trial.suggest_float(self.key, self.low, self._last, step=self.step, log=self.log)


Space = tuple[Dimension, ...]


def parse_space(text: str, config: Config) -> Space:
    """Raises UserError for a line that is not of the language, or a value that cannot be."""
    lines = [line.partition('#')[0].strip() for line in re.split(r'[;\n]', text)]
    space: list[Dimension] = []
    for line in filter(None, lines):
        try:
            space.append(_dimension(line))
        except UserError as error:
            raise UserError(f'--space, {line!r}: {error}') from None
    if not space:
        raise UserError('--space varies nothing; give it as "optim.peak_learning_rate = '
                        'log 1e-4 .. 1e-2"')
    names = [name for dimension in space for name in dimension.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'--space varies {twice[0]} twice; leave one of them out')
    for number, dimension in enumerate(space):
        asked = dimension.condition and dimension.condition[0]
        if any(asked in later.names for later in space[number:]):
            raise UserError(f'--space asks for {asked} before it varies it; put the line of '
                            f'{dimension.key} below')
    if 'train.seed' in names:
        raise UserError('--space varies train.seed; give the number of --seeds instead')
    return tuple(space)


def check_conditions(space: Space, config: Config) -> None:
    """Raises UserError for a dimension that is never varied."""
    varied, there = {name for dimension in space for name in dimension.names}, to_flat(config)
    for dimension in space:
        name, values = dimension.condition or ('', ())
        if name and name not in varied and there[name] not in values:
            raise UserError(f'--space never varies {dimension.key}: {name} is {there[name]!r}; '
                            'vary it, too, or give it another value by --config')


def _dimension(line: str) -> Dimension:
    line, _, condition = (part.strip() for part in line.partition(' if '))
    named, equals, values = (part.strip() for part in line.partition('='))
    names = tuple(name.strip() for name in named.split(','))
    if not equals or not values:
        raise UserError('it must be NAME = VALUES, as a | b or 0 .. 1')
    if_so = _condition(condition) if condition else None
    if found := _RANGE.fullmatch(values):
        return _range(names, *found.groups(), if_so)
    choices = tuple(_choice(names, choice) for choice in values.split('|'))
    if len(set(choices)) < len(choices):
        raise UserError('it has one choice twice; leave one of them out')
    return Dimension(names, choices, condition=if_so)


def _condition(text: str) -> tuple[str, tuple[Any, ...]]:
    name, equals, values = (part.strip() for part in text.partition('='))
    if not equals or not values:
        raise UserError('after `if` it must be NAME = VALUE, or several values separated by |')
    return name, tuple(_value(name, value) for value in values.split('|'))


def _choice(names: Sequence[str], text: str) -> tuple[Any, ...]:
    values = [text] if len(names) == 1 else text.split(',')
    if len(values) != len(names):
        raise UserError(f'{text.strip()!r} has {len(values)} values for {len(names)} names')
    return tuple(map(_value, names, values))


def _range(names: Sequence[str], log: str | None, low: str, high: str, step: str | None,
           condition) -> Dimension:
    if len(names) > 1:
        raise UserError('a range is for one name; names that change together take choices')
    [name] = names
    ends = _value(name, low), _value(name, high)
    if not all(type(end) in (int, float) for end in ends):
        raise UserError(f'a range is for numbers, which {name} is not; give choices as a | b')
    size = None if step is None else _value(name, step)
    if isinstance(ends[0], int) and size is None:
        size = 1
    if not (-math.inf < ends[0] < ends[1] < math.inf and (size is None or 0 < size < math.inf)):
        raise UserError('a range goes up, by steps above 0, from a number to a number')
    if log and (ends[0] <= 0 or step is not None):
        raise UserError('a log range begins above 0 and has no step')
    return Dimension((name,), (), *ends, size, bool(log), condition)


def _value(name: str, text: str) -> Any:
    known = leaves()
    if name not in known:
        raise UserError(f'the configuration has no field {name!r}{nearest(name, known)}')
    return parse_value(name, known[name], text.strip())


def settings_of(space: Space, config: Config, pick: Callable[[Dimension], Any]) -> Settings:
    """What `pick` takes of every dimension whose condition holds."""
    settings: Settings = {}
    for dimension in space:
        if _holds(dimension, config, settings):
            settings |= dimension.settings(pick(dimension))
    return settings


def grid(space: Space, config: Config) -> list[dict[str, Any]]:
    """Every {key: label or number} there is. Raises UserError for a range without a step."""
    found: list[tuple[dict, Settings]] = [({}, {})]
    for dimension in space:
        found = list(itertools.chain.from_iterable(
            [(params | {dimension.key: param}, settings | dimension.settings(param))
             for param in dimension.listed()] if _holds(dimension, config, settings)
            else [(params, settings)] for params, settings in found))
    return [params for params, _ in found]


def draw(space: Space, config: Config, seed: int, number: int) -> dict[str, Any]:
    """{key: label or number} of the draw of that number: the same in every order."""
    random, params = np.random.default_rng((seed, number)), {}

    def pick(dimension: Dimension) -> Any:
        params[dimension.key] = dimension.drawn(random)
        return params[dimension.key]

    settings_of(space, config, pick)
    return params


def _holds(dimension: Dimension, config: Config, settings: Mapping[str, Any]) -> bool:
    if dimension.condition is None:
        return True
    name, values = dimension.condition
    return to_flat(override(config, settings))[name] in values
