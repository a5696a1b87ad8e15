"""Our commands as users run them, each in a process of its own, and how long they take."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from xformer.config import UserError
from xformer.data.sources.datasets import cache_folder
from xformer.train.telemetry import read_rows


def finished(arguments: list[str], environment: dict[str, str] | None = None, code: int = 0,
             limit: float | None = None) -> tuple[str, float]:
    """(standard output, seconds) of `python -m ...`, ended with all that it started after `limit`
    seconds.

    With another exit code than `code` raises what the command said: UserError for a mistake of
    the user's, else RuntimeError, as when it is ended.
    """
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, '-m', *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, start_new_session=limit is not None,
                          env=os.environ | (environment or {})) as process:
        try:
            output, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f'not done after {limit:.0f} s') from None
    seconds = time.perf_counter() - start
    if process.returncode == 2 != code:
        raise UserError(said.strip().splitlines()[-1])
    if process.returncode != code:
        raise RuntimeError(f'{" ".join(arguments)}: exit code {process.returncode}: '
                           f'{said[-2000:]}')
    return output, round(seconds, 3)


def uncompiled_cache(folder: Path) -> Path:
    """`folder` made a cache that has all data of the user's own, and nothing compiled."""
    folder.mkdir()
    for part in ('stores', 'data'):
        (folder / part).symlink_to(cache_folder().resolve() / part)
    return folder


def short_run(steps: int, log_every: int) -> dict:
    """Changes to any experiment, for some steps with an evaluation and a checkpoint at the end."""
    return {'train.steps': steps, 'train.log_every': log_every, 'train.eval_every': steps,
            'train.save_every': steps, 'optim.warmup_steps': 1}


def trained(experiment: str, folder: Path, changes: dict, cache: Path) -> list[dict]:
    """Train in a new `folder` with XFORMER_CACHE=`cache`: the rows of timing.jsonl, each with
    'since_start', the seconds since the process was started."""
    flags = [f'--config.{name}={value}' for name, value in changes.items()]
    start = time.time()
    finished(['experiments.train', f'--config={experiment}', f'--workdir={folder}', *flags],
             {'XFORMER_CACHE': str(cache)})
    rows = read_rows(folder / 'timing.jsonl')
    clock = rows[0]['unix_time'] - start
    for row in rows:
        clock += row['seconds'] if 'event' not in row else 0
        row['since_start'] = round(clock, 3)
    return [row for row in rows if 'event' not in row]
