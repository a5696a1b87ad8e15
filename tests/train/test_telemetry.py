"""What a run says of itself: there at once, whole after a full disk, its best as checkpoints'."""

import math

import pytest

from xformer.compiled import Compilations
from xformer.config import UserError
from xformer.train.telemetry import Telemetry, best_row, read_rows


def test_a_row_can_be_read_at_once_and_a_line_cut_short_is_forgotten(tmp_path):
    log = Telemetry(tmp_path, 0, 10, Compilations())
    log.row(1, {'loss': 2.0})
    assert read_rows(tmp_path / 'metrics.jsonl') == [{'step': 1, 'loss': 2.0}]
    log.row(2, {'loss': 1.0})
    log.close()
    for name in 'metrics', 'timing':
        with open(tmp_path / f'{name}.jsonl', 'a') as file:
            file.write('{"step": 3, "lo')
    log = Telemetry(tmp_path, 1, 10, Compilations())
    log.row(2, {'loss': 1.5})
    log.close()
    assert [row['loss'] for row in read_rows(tmp_path / 'metrics.jsonl')] == [2.0, 1.5]
    assert [row.get('step') for row in read_rows(tmp_path / 'timing.jsonl')] == [0, 1, 2, 1, 2]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"st{"step": 2}\n')
    with pytest.raises(UserError, match='metrics.jsonl is damaged'):
        read_rows(tmp_path / 'metrics.jsonl')


@pytest.mark.parametrize('best_by, step', [('dev/accuracy:max', 4), ('dev/loss:min', 3)])
def test_the_best_is_finite_and_of_equals_the_newest(best_by, step):
    rows = [{'step': n, 'dev/loss': loss, 'dev/accuracy': accuracy} for n, (loss, accuracy)
            in enumerate([(math.nan, 0.4), (2.0, 0.5), (1.0, 0.3), (3.0, 0.5)], start=1)]
    assert best_row([*rows, {'step': 5}], best_by)['step'] == step
    assert best_row([], best_by) is None
