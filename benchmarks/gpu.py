"""Measure training, attention, decoding and memory on one NVIDIA GPU in under eight minutes.

    make bench-gpu
    python -m benchmarks.gpu --output=benchmarks/results/gpu.json

Prints a table and writes one JSON. Against PyTorch (torch.compile, fused AdamW, autocast) where
torch with CUDA and transformers are installed, else ours alone. Each section is a process of its
own, one after the other, so each side has the GPU and all its memory for itself, and what one
library loads or keeps does not reach the other; a section that fails or is not done in its time
loses no other one, and the exit code is then 1.
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from benchmarks.parity import check_close
from benchmarks.processes import finished
from benchmarks.results import OURS, case, measured, table
from benchmarks.timing import machine
from experiments import cli
from xformer.config import Ending, UserError
from xformer.console import counting, say
from xformer.train.flops import FORMULA

LIMIT = 450  # seconds of all sections together
OUTPUT = Path(__file__).parent / 'results' / 'gpu.json'
PARITY = {'loss': 2e-3, 'gradient norm': 2e-2}  # relative, in bfloat16
SPEED_BAR, MFU_BAR = 1.0, 0.5
TITLES = {'gpt2': 'GPT-2 124M', 'bert-base': 'BERT-base', 'transformer-big': 'Transformer big'}
PEERS = {'train': ('compile',), 'decode': ('eager', 'compile')}
WHOLE_GPU = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95'}

SIZES = {  # of an H200; what each section takes
    'train': {'gpt2': {'rows': 32, 'length': 1024}, 'bert-base': {'rows': 64, 'length': 512},
              'transformer-big': {'rows': 384, 'length': 64}},
    'attention': {'rows': 4, 'length': 1024, 'heads': 12, 'width': 64, 'expected': 'cudnn',
                  'tolerance': 2e-2},
    'decode': {f'batch {rows}': {'rows': rows, 'prompt': 32, 'new': 200} for rows in (1, 64)},
    'biggest': {'model': 'gpt2', 'rows': 32, 'most': 4096, 'length': 1024,
                'changes': {'model.layers': 'scan'}},
}


class Job(NamedTuple):
    """A function of `benchmarks.gpu_sections` or, for a peer, of `benchmarks.gpu_peer`."""

    section: str  # what it is part of
    side: str  # OURS, or how the peer computes
    function: str
    arguments: dict
    share: float  # of the time
    environment: dict = {}

    @property
    def module(self) -> str:
        return 'benchmarks.gpu_sections' if self.side == OURS else 'benchmarks.gpu_peer'


class Failed(Ending):
    """Some section could not be measured."""

    exit_code = 1


Call = Callable[[Job, float], dict]  # (job, its seconds) -> its result


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, _define, sections=())
    output = Path(values.output)
    here = the_gpu()
    output.parent.mkdir(parents=True, exist_ok=True)
    result = measure(SIZES, here, absence(), in_a_process)
    print(table(result))
    for sentence in result['notes']:
        print(sentence)
    for section, error in result['errors'].items():
        print(f'FAILED: {section}: {error.splitlines()[-1]}')
    output.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(f'written: {output}')
    if result['errors']:
        raise Failed(f'{len(result["errors"])} sections could not be measured; {output} says why')


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('output', str(OUTPUT), 'JSON file to write', flag_values=values)


def in_a_process(job: Job, seconds: float) -> dict:
    """The job's result, which is the last line that its process prints."""
    environment = job.environment if job.side == OURS else {'JAX_PLATFORMS': 'cpu'}
    said, _ = finished([job.module, job.function, json.dumps(job.arguments)], environment,
                       limit=seconds)
    return json.loads(said.splitlines()[-1])


def the_gpu() -> dict:
    """What JAX says of it. Raises UserError where there is none."""
    try:
        here = in_a_process(Job('device', OURS, 'device', {}, 1), 60)
    except RuntimeError as error:
        here = {'platform': f'an error ({str(error).splitlines()[-1]})'}
    if here['platform'] != 'gpu':
        raise UserError(f'bench-gpu needs an NVIDIA GPU, and JAX shows {here["platform"]}; run it '
                        "where there is one, after: pip install -e '.[cuda]'")
    return here


def absence() -> str:
    """Why there is no peer, or nothing."""
    missing = [name for name in ('torch', 'transformers')
               if importlib.util.find_spec(name) is None]
    if missing:
        return f'peer not installed: no {" and no ".join(missing)}'
    try:
        here = in_a_process(Job('device', 'compile', 'device', {}, 1), 60)
    except (RuntimeError, Ending) as error:
        return f'peer not usable: {str(error).splitlines()[-1]}'
    return '' if here['cuda'] else f'peer not installed: torch {here["torch"]} has no CUDA here'


def deterministic() -> dict[str, str]:
    """What a process needs from its start for XLA to choose only kernels that repeat themselves."""
    return {'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'}


def jobs_of(sizes: dict, absent: str) -> list[Job]:
    """All that is run, in the order of what matters most, both sides of a section together."""
    def train(model: str, ours: float, theirs: float) -> list[Job]:
        size = sizes['train'][model]
        return [Job(TITLES[model], side, 'train', {'model': model} | size, share)
                for side, share in ((OURS, ours), *((peer, theirs) for peer in PEERS['train']))]

    decoding = [Job(f'decode, {name}', side, 'decode', size if side == OURS else
                    size | {'how': side}, 25)
                for name, size in sizes['decode'].items() for side in (OURS, *PEERS['decode'])]
    jobs = [Job('attention', OURS, 'attention', sizes['attention'], 40),
            *train('gpt2', 80, 80), *train('bert-base', 60, 60), *train('transformer-big', 70, 70),
            Job('deterministic', OURS, 'train', {'model': 'gpt2', 'twice': True}
                | sizes['train']['gpt2'], 70, deterministic()),
            *decoding, Job('biggest batch', OURS, 'biggest', sizes['biggest'], 70, WHOLE_GPU)]
    return [job for job in jobs if job.side == OURS or not absent]


def measure(sizes: dict, here: dict, absent: str, call: Call, limit: float = LIMIT) -> dict:
    """The result as `benchmarks.results.table` shows it, and what failed in 'errors'."""
    jobs = jobs_of(sizes, absent)
    result = {'suite': 'gpu', 'machine': machine() | {'gpu': here['kind'], 'device': here},
              'errors': {}, 'cases': {}}
    found = run(jobs, call, limit, result['errors'])
    for section in dict.fromkeys(job.section for job in jobs):
        sides = {side: made for (name, side), made in found.items() if name == section}
        if OURS not in sides:
            continue
        try:
            result['cases'] |= cases_of(section, sides, found, absent)
        except RuntimeError as error:
            result['errors'][section] = str(error)
    ends = [f'{section}: {made["end"]}' for (section, _), made in found.items() if 'end' in made]
    return result | {'notes': [f'MFU: ({FORMULA}) ÷ seconds ÷ peak of the device', *ends,
                               *filter(None, [absent])]}


def run(jobs: list[Job], call: Call, limit: float, errors: dict[str, str]) -> dict:
    """{(section, side): result} of those that succeed; of the others the error is kept.

    Each has its share of the time that is left, so that what one does not need is for the next.
    """
    found, until = {}, time.monotonic() + limit
    with counting('measuring', len(jobs)) as show:
        for number, job in enumerate(jobs):
            left = until - time.monotonic()
            seconds = left * job.share / sum(each.share for each in jobs[number:])
            arguments = job.arguments | ({'seconds': seconds} if job.function == 'biggest' else {})
            try:
                found[job.section, job.side] = call(job._replace(arguments=arguments), seconds)
            except Exception as error:  # whatever it is, the other sections are still measured
                errors[f'{job.section}, {job.side}'] = str(error) or type(error).__name__
                say(f'{job.section}, {job.side}: failed')
            show(number + 1)
    return found


def cases_of(section: str, sides: dict, found: dict, absent: str) -> dict:
    """What one section found. Raises RuntimeError where the two sides computed different things."""
    ours = sides[OURS]
    if section in TITLES.values():
        return trained(section, sides, absent)
    if section.startswith('decode'):
        tokens = sum(map(len, ours['ids']))
        agree = {peer: {'share of equal tokens': agreement(ours['ids'], theirs['ids'])}
                 for peer, theirs in sides.items() if peer != OURS}
        return {section: {'agreement': agree} | compared(sides, tokens, 'tokens/s', SPEED_BAR,
                                                         absent)}
    if section == 'attention':
        return {f'attention by {ours["backend"]}, {mask}': measured(
            list(differences.values()), 'relative error', None)
            | {'differences': differences} for mask, differences in ours['differences'].items()}
    if section == 'deterministic':
        if (TITLES['gpt2'], OURS) not in found:
            raise RuntimeError(f'nothing to compare with, as {TITLES["gpt2"]} failed')
        plain = found[TITLES['gpt2'], OURS]['seconds']
        return {'deterministic mode': measured(
            [b / a for a, b in zip(plain, ours['seconds'])], '× the time of a step', None)}
    return {'biggest batch': measured([ours['rows']], 'rows', None) | {'found': ours}}


def trained(title: str, sides: dict, absent: str) -> dict:
    """Speed, model FLOP/s utilisation and memory of a training step."""
    ours = sides[OURS]
    differences = {peer: parity(ours, theirs, peer) for peer, theirs in sides.items()
                   if peer != OURS}
    cases = {title: {'parity': differences, 'parameters': ours['parameters']} | compared(
        sides, ours['tokens'], 'tokens/s', SPEED_BAR, absent)}
    if ours['peak_flops']:
        cases |= {f'{title}, MFU of {side}': measured(
            [ours['flops'] / seconds / ours['peak_flops'] for seconds in made['seconds']],
            'of peak', None, MFU_BAR if side == OURS and title == TITLES['gpt2'] else None)
            | {'flops': ours['flops'], 'peak_flops': ours['peak_flops']}
            for side, made in sides.items()}
    return cases | {f'{title}, memory of {side}': measured([made['memory_mib']], 'MiB', None)
                    for side, made in sides.items() if made['memory_mib']}


def parity(ours: dict, theirs: dict, peer: str) -> dict[str, float]:
    """The largest difference of two updates. Raises RuntimeError beyond PARITY."""
    if ours['parameters'] != theirs['parameters']:
        raise RuntimeError(f'ours has {ours["parameters"]:,} parameters, {peer} '
                           f'{theirs["parameters"]:,}')
    return {what: max(check_close(f'{what} of {peer}', a[index], b[index], limit)
                      for a, b in zip(ours['checks'], theirs['checks']))
            for index, (what, limit) in enumerate(PARITY.items())}


def compared(sides: dict, amount: float, unit: str, bar: float, absent: str) -> dict:
    """A case of the rounds of both sides, measured one after the other."""
    rounds = [dict(zip(sides, seconds)) for seconds in zip(*(made['seconds']
                                                             for made in sides.values()))]
    alone = {'absent': absent or 'peer failed'} if len(sides) == 1 else {}
    return case(rounds, dict.fromkeys(sides, amount), unit, bar) | alone


def agreement(ours: list[list[int]], theirs: Iterable[list[int]]) -> float:
    """Share of equal tokens. In bfloat16 near ties fall either way, and what follows differs; the
    suite `decode` holds both sides to the same tokens in float32."""
    pairs = [pair for a, b in zip(ours, theirs) for pair in zip(a, b)]
    return sum(a == b for a, b in pairs) / len(pairs)


if __name__ == '__main__':
    cli.call(main)
