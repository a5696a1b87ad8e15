"""What a run says about itself: metrics.jsonl, timing.jsonl, TensorBoard, a progress bar."""

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xformer.compiled import Compilations
from xformer.config import UserError, measure_of
from xformer.console import say
from xformer.files import write_atomically


class Telemetry:
    """Writes one row a logged step.

    metrics.jsonl holds values only, so that an interrupted and an uninterrupted run write the
    same bytes; clocks go to timing.jsonl. On resuming from a step, rows beyond it are dropped:
    they are about to be made again.
    """

    def __init__(self, folder: Path, step: int, total_steps: int, compilations: Compilations,
                 peak: float | None = None):
        """`peak`: operations per second of all devices together, if that is known."""
        self._compilations, self._logged, self._peak = compilations, 0, peak
        self._metrics = _reopen(folder / 'metrics.jsonl', step)
        self._timing = _reopen(folder / 'timing.jsonl')
        self._board = Board(folder / 'tensorboard', step)
        self._progress = Progress(step, total_steps)
        self._begin(step)
        self._clock({'event': 'start', 'step': step, 'unix_time': round(time.time(), 3),
                     'peak_flops_per_second': peak})

    def _begin(self, step: int) -> None:
        """A new stretch of steps to be timed."""
        self._since, self._step = time.perf_counter(), step
        self._tokens, self._flops = 0, 0.0
        self._compiling = self._compilations.seconds
        self._spent = dict.fromkeys(('data_wait', 'evaluate', 'checkpoint'), 0.0)

    def spent(self, what: str, seconds: float) -> None:
        """Add to the seconds of this stretch: data_wait, evaluate or checkpoint."""
        self._spent[what] += seconds

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the seconds of a `with` block as spent on `what`, but for compiling in it."""
        start, compiling = time.perf_counter(), self._compilations.seconds
        yield
        compiled = self._compilations.seconds - compiling
        self.spent(what, time.perf_counter() - start - compiled)

    def saw(self, tokens: int, flops: float) -> None:
        """Count real (not padding) tokens trained on, and the operations that they need."""
        self._tokens += tokens
        self._flops += flops

    def row(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a step, and where the time since the last row went."""
        self._metrics.write(json.dumps({'step': step, **metrics}) + '\n')
        self._metrics.flush()
        for compilation in self._compilations.rows[self._logged:]:
            self._clock({'event': 'compile', **compilation})
        self._logged = len(self._compilations.rows)

        seconds = time.perf_counter() - self._since
        self._spent['compile'] = self._compilations.seconds - self._compiling
        stepping = seconds - sum(self._spent.values())
        clocks = {'seconds': round(seconds, 4),
                  'step_seconds': round(stepping / max(step - self._step, 1), 5),
                  **{f'{name}_seconds': round(value, 4) for name, value in self._spent.items()},
                  'tokens_per_second': round(self._tokens / max(stepping, 1e-9), 1),
                  'model_flops_per_second': float(f'{self._flops / max(stepping, 1e-9):.4g}'),
                  'peak_memory_mib': peak_memory_mib()}
        if self._peak:
            clocks['mfu'] = round(clocks['model_flops_per_second'] / self._peak, 4)
        if device_memory := device_peak_memory_mib():
            clocks['device_peak_memory_mib'] = device_memory
        self._clock({'step': step, **clocks})
        for group, values in (('train', metrics), ('timing', clocks)):
            self._board.add(step, {name if '/' in name else f'{group}/{name}': value
                                   for name, value in values.items()})
        self._progress.update(step, metrics, clocks['tokens_per_second'])
        self._begin(step)

    def _clock(self, row: dict) -> None:
        self._timing.write(json.dumps(row) + '\n')
        self._timing.flush()

    def say(self, sentence: str) -> None:
        self._progress.say(sentence)

    def close(self) -> None:
        with ExitStack() as each:  # all are closed even if the disk is full
            for part in (self._board, self._timing, self._metrics, self._progress):
                each.callback(part.close)


class Board:
    """TensorBoard's event file, written by this thread, so that a full disk raises here."""

    def __init__(self, folder: Path, step: int):
        with _hidden('torch'):  # tensorboardX imports it where it can, and needs none of it here
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / 'events'))
        self._events.write_event(Event(  # TensorBoard forgets what it has seen beyond this step
            wall_time=time.time(), step=step + 1,
            session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar
        for name, value in values.items():
            self._events.write_event(
                Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def close(self) -> None:
        self._events.close()


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """As if a module that is not imported yet were not installed."""
    hidden = sys.modules.setdefault(module, None) is None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


class Progress:
    """A bar with loss, tokens/s and time left; without a terminal, a line every 30 seconds."""

    def __init__(self, step: int, total_steps: int):
        from rich import progress
        from rich.console import Console
        self._console = Console(stderr=True)
        self._total, self._next_line = total_steps, time.perf_counter() + 30
        self._bar = progress.Progress(
            progress.TextColumn('training'), progress.BarColumn(), progress.MofNCompleteColumn(),
            progress.TextColumn('{task.fields[values]}'), progress.TimeElapsedColumn(),
            progress.TextColumn('left'), progress.TimeRemainingColumn(),
            console=self._console, transient=True)
        self._task = self._bar.add_task('', total=total_steps, completed=step, values='')
        if self._console.is_terminal:
            self._bar.start()

    def update(self, step: int, metrics: dict[str, float], tokens_per_second: float) -> None:
        values = f'loss {metrics["loss"]:.3f}  {tokens_per_second:,.0f} tokens/s'
        self._bar.update(self._task, completed=step, values=values)
        if not self._console.is_terminal and time.perf_counter() > self._next_line:
            self._next_line = time.perf_counter() + 30
            say(f'step {step:,} of {self._total:,}: {values}')

    def say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._console.is_terminal:
            self._bar.stop()


class Trace:
    """JAX's profile of a few steps after those that compile, for TensorBoard and Perfetto."""

    SKIPPED, STEPS = 10, 10

    def __init__(self, folder: Path, step: int, total_steps: int):
        self._folder, self._running = folder, False
        self._first, self._last = step + self.SKIPPED, step + self.SKIPPED + self.STEPS
        if self._last >= total_steps:
            raise UserError(f'--profile traces steps {self._first + 1:,} to {self._last:,}, but '
                            f'training ends at step {total_steps:,}; give it more train.steps')

    def before(self, step: int, state) -> None:
        """To be called before each step is dispatched, with the state that it will change."""
        import jax
        if step in (self._first, self._last):
            jax.block_until_ready(state)
        if step == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        if step == self._last:
            self.close()

    def close(self) -> None:
        """Write what there is."""
        import jax
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            say(f'profile from step {self._first + 1:,} on: {self._folder} (open its '
                'perfetto_trace.json.gz at ui.perfetto.dev, or the folder in TensorBoard)')


def peak_memory_mib() -> int:
    """Most resident memory of this process so far."""
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def device_peak_memory_mib() -> int | None:
    """Most memory in use on the first device so far; None where JAX does not know (a CPU)."""
    import jax
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get('peak_bytes_in_use', 0) // 2**20 or None


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file; a last line cut short by a kill is left out. Raises UserError
    for any other that is damaged."""
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding='utf-8').split('\n')[:-1]]
    except ValueError as error:
        raise UserError(f'{path} is damaged ({error}); remove it, or restore it from a copy'
                        ) from None


def best_row(rows: list[dict], best_by: str) -> dict | None:
    """The row of metrics.jsonl that `best_by`, dev/METRIC:min or :max, calls the best; of equals
    the newest, as with checkpoints."""
    name, sign = measure_of(best_by)
    return min((row for row in rows if math.isfinite(row.get(name, math.nan))),
               key=lambda row: (sign * row[name], -row['step']), default=None)


def _reopen(path: Path, step: float = math.inf):
    """`path` for appending, without the rows beyond `step` and a line cut short."""
    kept = [row for row in read_rows(path) if row.get('step', 0) <= step]
    write_atomically(path, ''.join(json.dumps(row) + '\n' for row in kept))
    return open(path, 'a', encoding='utf-8')
