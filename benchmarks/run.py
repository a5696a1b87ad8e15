"""Measure our speed against a peer's, in alternation in one process, on the CPU.

    python -m benchmarks.run --repeats=20 --output=benchmarks/results/train-seq2seq.json

Prints tokens per second (real tokens, no padding) and the ratio ours ÷ peer, pair by pair. Let
nothing else run meanwhile: PyTorch's threads wait for each other, so a busy machine flatters us.
"""

import importlib.util
import json
from pathlib import Path

from absl import flags

from experiments import cli
from xformer.config import UserError


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_enum('suite', 'train-seq2seq', ['train-seq2seq'], 'what to measure: the '
                      "quickstart's training step", flag_values=values)
    flags.DEFINE_enum('peer', 'eager', ['eager', 'eager-math'], "nn.Transformer as it comes, or "
                      'with the attention that is fastest for short sequences',
                      flag_values=values)
    flags.DEFINE_integer('repeats', 20, 'pairs of measurements', lower_bound=1,
                         flag_values=values)
    flags.DEFINE_string('output', None, 'result FILE.json, with the machine described',
                        flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    output = values.output and Path(values.output)
    if output and output.suffix != '.json':
        raise UserError(f'--output={output} does not end in .json; name a JSON file')
    if importlib.util.find_spec('torch') is None:
        raise UserError("the peer needs PyTorch, which is not installed; "
                        "install it with: pip install 'xformer[parity]'")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)

    import jax
    jax.config.update('jax_platforms', 'cpu')  # where the peer runs
    from benchmarks.train_seq2seq import measure
    result = measure(values.repeats, values.peer)
    print(table(result))
    if output:
        output.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
        print(f'written: {output}')


def table(result: dict) -> str:
    where, parity = result['machine'], result['parity']
    rows = {f'{result[side]}, tokens/s': [f'{value:,.0f}' for value in speed.values()]
            for side, speed in result['tokens_per_second'].items()}
    rows['ratio, pair by pair'] = [f'{value:.2f}' for value in result['ratio'].values()]
    return '\n'.join([
        f'{result["suite"]}: {len(result["pairs"])} pairs of {len(result["shapes"])} steps on '
        f'{result["tokens_per_pair"]:,} real tokens ({result["fill"]:.0%} of the slots)',
        f'{where["cpu"]}, {where["cpus"]} threads each, PyTorch {where["packages"]["torch"]}, '
        f'JAX {where["packages"]["jax"]}; load average at the start {where["load_average"]}',
        f'same model: loss within {parity["loss"]:.1e}, '
        f'gradient norm within {parity["gradient_norm"]:.1e}',
        f'{"":34}{"min":>10}{"median":>10}{"max":>10}',
        *(f'{name:34}' + ''.join(f'{value:>10}' for value in values)
          for name, values in rows.items())])


if __name__ == '__main__':
    cli.call(main)
