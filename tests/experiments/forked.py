"""A command in a fork of a process that has imported JAX and its like, which takes two seconds.

The process is forked anew for every command and has imported nothing of this project.
"""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['jax', 'flax.linen', 'orbax.checkpoint', 'tensorboardX',
                              'matplotlib.figure', 'tokenizers'])


def run_forked(command: list[str], cwd: Path, env: dict[str, str], text: str, folder: Path,
               timeout: float = 300) -> CompletedProcess:
    """`python -m COMMAND` as subprocess.run would; `folder` keeps what it reads and writes."""
    streams = [folder / name for name in ('stdin', 'stdout', 'stderr')]
    streams[0].write_text(text, encoding='utf-8')
    process = FORKS.Process(target=_run, args=(command, cwd, env, streams))
    process.start()
    process.join(timeout)
    if process.is_alive():
        os.kill(process.pid, signal.SIGABRT)  # stderr then shows where it hangs
        process.join()
    return CompletedProcess([sys.executable, '-m', *command], process.exitcode,
                            *(path.read_text(encoding='utf-8') for path in streams[1:]))


def _run(command: list[str], cwd: Path, env: dict[str, str], streams: list[Path]) -> None:
    for number, (path, mode) in enumerate(zip(streams, 'rww', strict=True)):
        with open(path, mode) as stream:
            os.dup2(stream.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding='utf-8', closefd=False) for number, mode in enumerate('rww'))
    faulthandler.enable()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [str(cwd), *env['PYTHONPATH'].split(os.pathsep)]
    sys.argv = ['-m', *command[1:]]
    runpy.run_module(command[0], run_name='__main__', alter_sys=True)
