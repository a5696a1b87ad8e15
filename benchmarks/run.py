"""Measure our speed against peers', in alternation in one process, on the CPU.

    python -m benchmarks.run --suite=train-gpt
    python -m benchmarks.run --suite=decode --peer=eager --repeats=10 --output=benchmarks/results

Prints how fast each side is and the ratio ours ÷ peer, round by round; --output also writes
FOLDER/SUITE.json. Let nothing else run meanwhile: PyTorch's threads wait for each other, so a busy
machine flatters us. docs/benchmarks.md says what each suite measures.
"""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments import cli
from xformer.config import UserError


class Suite(NamedTuple):
    """A file benchmarks/SUITE.py; what its peers need beside torch, and how often it repeats."""

    peers: tuple[str, ...]
    needs: tuple[str, ...] = ('torch', 'transformers')
    repeats: int = 10


TORCH = ('eager', 'compile')
SUITES = {
    'train-gpt': Suite(TORCH),
    'train-bf16': Suite(TORCH),
    'products': Suite(('eager',), repeats=20),
    'train-bert': Suite(TORCH),
    'train-seq2seq': Suite(TORCH),
    'train-g2p': Suite(('eager', 'eager-math'), needs=('torch',), repeats=20),
    'decode': Suite(TORCH, repeats=5),
    'embed': Suite(('batch-32', 'batch-128'),
                   needs=('torch', 'transformers', 'sentence_transformers'), repeats=5),
    'seeds': Suite(('one-by-one',), needs=()),
    'quality-time': Suite(TORCH, repeats=3),
    'long': Suite(('sdpa',), needs=('torch',), repeats=3),
    'load': Suite(('eager',), repeats=5),
    'start': Suite((), needs=(), repeats=5),
    'data': Suite((), needs=(), repeats=3),
}


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_enum('suite', None, list(SUITES), f'what to measure ({cli.REQUIRED})',
                      flag_values=values)
    flags.DEFINE_string('peer', None, 'measure against this peer alone (default: all of them; the '
                        'fastest decides)', flag_values=values)
    flags.DEFINE_integer('repeats', None, 'rounds that count (default: '
                         + ', '.join(f'{count} in {name}' for name, count in _repeats().items())
                         + ')', lower_bound=1, flag_values=values)
    flags.DEFINE_string('output', None, 'folder for SUITE.json, with the machine described',
                        flag_values=values)


def _repeats() -> dict[str, int]:
    return {name: suite.repeats for name, suite in SUITES.items()}


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    suite = SUITES[values.suite]
    if values.peer and values.peer not in suite.peers:
        raise UserError(f'--suite={values.suite} has no peer {values.peer!r}; '
                        + (f'it has {", ".join(suite.peers)}' if suite.peers else 'it has none'))
    missing = [name for name in suite.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'the peer needs {", ".join(missing)}, not installed here; '
                        "install it with: pip install -e '.[parity]'")
    if values.output:
        Path(values.output).mkdir(parents=True, exist_ok=True)

    import jax
    cli.keep_memory()  # as every command that computes does
    jax.config.update('jax_platforms', 'cpu')  # where the peers run
    from benchmarks.results import table
    from benchmarks.timing import machine
    result = {'suite': values.suite, 'machine': machine()}
    module = importlib.import_module(f'benchmarks.{values.suite.replace("-", "_")}')
    peers = (values.peer,) if values.peer else suite.peers
    result['cases'] = module.measure(values.repeats or suite.repeats, peers)
    print(table(result))
    if values.output:
        path = Path(values.output) / f'{values.suite}.json'
        path.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
        print(f'written: {path}')


if __name__ == '__main__':
    cli.call(main)
