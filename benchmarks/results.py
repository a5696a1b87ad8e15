"""What a suite found: cases ready for JSON, their verdicts, and the table that shows them.

A case compares, or it measures by itself:

    {'unit', 'bar', 'speed': {side: spread}, 'ratio': {peer: spread}, 'rounds': [{side: seconds}]}
    {'unit', 'bar', 'limit', 'value': spread}

A ratio is our speed ÷ the peer's within one round, so above 1 where we are faster. `bar` is the
least median ratio to the fastest peer, or the least median value, `limit` the greatest one; None
asks nothing. Without any peer `absent` says why, and nothing is decided.
"""

from collections.abc import Callable

from benchmarks.timing import alternate, spread

OURS = 'xformer'


def compared(works: dict[str, Callable[[], None]], amounts: float | dict[str, float], unit: str,
             bar: float | None, rounds: int, title: str) -> dict:
    """A case in which OURS and the peers, each a function that does its work, take turns.

    `amounts` is the work of a round, for all or for each side, in what `unit` counts per second.
    """
    if not isinstance(amounts, dict):
        amounts = dict.fromkeys(works, amounts)
    return case(alternate(works, rounds, title), amounts, unit, bar)


def case(rounds: list[dict[str, float]], amounts: dict[str, float], unit: str,
         bar: float | None) -> dict:
    """The case that these seconds of each side, a row a round, make."""
    speeds = {side: [amount / row[side] for row in rounds] for side, amount in amounts.items()}
    return {'unit': unit, 'bar': bar,
            'speed': {side: spread(values) for side, values in speeds.items()},
            'ratio': {peer: spread(ours / theirs for ours, theirs in zip(speeds[OURS], values))
                      for peer, values in speeds.items() if peer != OURS},
            'amounts': amounts, 'rounds': rounds}


def measured(values: list[float], unit: str, limit: float | None,
             bar: float | None = None) -> dict:
    """A case without a peer."""
    return {'unit': unit, 'bar': bar, 'limit': limit, 'value': spread(values), 'values': values}


def fastest_peer(case: dict) -> str:
    """The peer with the highest median speed, which decides."""
    return max(case['ratio'], key=lambda peer: case['speed'][peer]['median'])


def verdict(case: dict) -> str:
    """What was asked of the case and whether it holds, or nothing."""
    if 'value' in case:
        value = case['value']['median']
    elif case['ratio']:
        value = case['ratio'][fastest_peer(case)]['median']
    else:
        return case['absent']
    if case['bar'] is not None:
        return f'at least {case["bar"]}: {"met" if value >= case["bar"] else "MISSED"}'
    if case.get('limit') is not None:
        return f'at most {case["limit"]}: {"met" if value <= case["limit"] else "MISSED"}'
    return ''


def table(result: dict) -> str:
    """The cases of a suite's result as lines for a terminal."""
    where, packages = result['machine'], result['machine']['packages']
    peers = [f'{name} {packages[name]}' for name in ('jax', 'torch', 'transformers')
             if name in packages]
    lines = [f'{result["suite"]}: {where.get("gpu", where["cpu"])}, {where["cpus"]} threads a '
             f'side, {", ".join(peers)}; load average at the start {where["load_average"]}',
             _row('', ('min', 'median', 'max'))]
    for name, case in result['cases'].items():
        lines += _rows(name, case)
        lines += [f'  same results: {peer}: {_within(differences)}'
                  for peer, differences in case.get('parity', {}).items()]
    return '\n'.join(lines)


def _rows(name: str, case: dict) -> list[str]:
    if 'value' in case:
        return [_row(f'{name}, {case["unit"]}', _numbers(case['value']), verdict(case))]
    decides = fastest_peer(case) if case['ratio'] else None
    return ['', name] + [
        _row(f'  {side}, {case["unit"]}', _numbers(speed), '' if decides else verdict(case))
        for side, speed in case['speed'].items()] + [
        _row(f'  ratio to {peer}', _numbers(ratio), verdict(case) if peer == decides else '')
        for peer, ratio in case['ratio'].items()]


def _numbers(spread: dict[str, float]) -> list[str]:
    return [f'{value:,.0f}' if value >= 1000 else f'{value:.3g}' for value in spread.values()]


def _row(name: str, values, remark: str = '') -> str:
    return (f'{name:<44}' + ''.join(f'{value:>10}' for value in values) + f'   {remark}').rstrip()


def _within(differences: dict[str, float]) -> str:
    return ', '.join(f'{what} within {difference:.1e}' if difference else f'{what} equal'
                     for what, difference in differences.items())
