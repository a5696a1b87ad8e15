"""The parity table: what tests found, shown at the end of `make parity`."""

from collections import defaultdict

import pytest

COLUMNS = ('logits', 'hidden', 'maps', 'loss', 'gradients', 'generate')
_FOUND = defaultdict(lambda: defaultdict(float))  # {family: {column: worst difference}}


@pytest.fixture(scope='session')
def parity_table():
    """parity_table('bert', {'hidden/encoder': 2e-7, ...}) adds to the row of a family."""
    def add(family: str, differences: dict[str, float]) -> None:
        for name, value in differences.items():
            column = name.split('/')[0]
            column = column if column in COLUMNS else 'logits'  # of other heads
            _FOUND[family][column] = max(_FOUND[family][column], value)
    return add


def pytest_terminal_summary(terminalreporter):
    if not _FOUND:
        return
    write = terminalreporter.write_line
    write('Largest difference ÷ largest value of a tensor, float32, next to PyTorch transformers')
    write(' ' * 12 + ''.join(f'{column:>11}' for column in COLUMNS))
    for family, row in _FOUND.items():
        write(f'{family:<12}' + ''.join(
            f'{row[column]:>11.1e}' if column in row else ' ' * 10 + '-' for column in COLUMNS))
