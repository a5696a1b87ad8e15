"""Compare ratios with those committed: has anything become slower than its peers?

    python -m benchmarks.run --suite=train-gpt --output=/tmp/new
    python -m benchmarks.check /tmp/new

A ratio is worse where its median is more than 15 % below the committed one and each median lies
outside the other's spread; then the exit code is 1. Times are never compared, nor what has no peer.
"""

import json
from pathlib import Path

from experiments import cli
from xformer.config import Ending, UserError

COMMITTED = Path(__file__).parent / 'results'
ALLOWED = 0.15  # of the committed median


class Worse(Ending):
    """Some ratio has become worse."""

    exit_code = 1


def main(argv: list[str]) -> None:
    folders = argv[1:]
    if {'-h', '--help'} & set(folders):
        print(__doc__.strip())
        return
    if len(folders) != 1:
        raise UserError(f'give one FOLDER of results, not {len(folders)}; see --help')
    new, old = results(Path(folders[0])), results(COMMITTED)
    worse = 0
    for suite in sorted(new.keys() & old.keys()):
        for case, peer, before, now in shared_ratios(old[suite], new[suite]):
            is_worse = worsened(before, now)
            worse += is_worse
            print(f'{suite}, {case}, {peer}: {before["median"]:.3g} -> {now["median"]:.3g}'
                  + '  WORSE' * is_worse)
        for case in old[suite]['cases'].keys() - new[suite]['cases'].keys():
            print(f'{suite}, {case}: not measured')
    for suite in sorted(new.keys() - old.keys()):
        print(f'{suite}: nothing is committed to compare with')
    if worse:
        raise Worse(f'{worse} median ratios are more than {ALLOWED:.0%} below the committed ones')


def results(folder: Path) -> dict[str, dict]:
    """{suite: its result} of a folder's files. Raises UserError for one without any."""
    try:
        found = [json.loads(path.read_text(encoding='utf-8')) for path in folder.glob('*.json')]
        found = {result['suite']: result for result in found if 'cases' in result}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{folder} has a file that is no result of benchmarks.run ({error}); '
                        'remove it') from None
    if not found:
        raise UserError(f'{folder} has no results; write some with: '
                        f'python -m benchmarks.run --suite=NAME --output={folder}')
    return found


def shared_ratios(old: dict, new: dict):
    """(case, peer, committed spread, new spread) of every ratio that both results have."""
    for name, case in new['cases'].items():
        before = old['cases'].get(name, {}).get('ratio', {})
        for peer, ratio in case.get('ratio', {}).items():
            if peer in before:
                yield name, peer, before[peer], ratio


def worsened(before: dict[str, float], now: dict[str, float]) -> bool:
    """Whether the median is too far below, and each outside the other's spread."""
    return (now['median'] < (1 - ALLOWED) * before['median'] and now['median'] < before['min']
            and now['max'] < before['median'])


if __name__ == '__main__':
    cli.call(main)
