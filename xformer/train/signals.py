"""Signals that ask for an end: what is done is saved first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from xformer.config import Ending
from xformer.console import say

# SIGUSR2 is what submitit's jobs get shortly before their time is up
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stopped(Ending):
    """A signal ended the work early; what was done is saved, and the same command goes on."""

    exit_code = 75


class Interrupt:
    """Whether one of STOPS has asked the run to stop, and by which name."""

    requested = ''


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Note STOPS instead of dying of them; the same one again stops at once.

    Ctrl-C at a sweep reaches its runs twice, from the terminal as SIGINT and from the sweep as
    SIGTERM: that is one wish.
    """
    interrupt = Interrupt()

    def note(number, frame):
        name = signal.Signals(number).name
        if interrupt.requested == name:
            raise Stopped(f'stopped at once by a second {name}; the newest checkpoint stands')
        if not interrupt.requested:
            interrupt.requested = name
            say(f'{name}: stopping after the next step, saved (again: at once)')

    before = {number: signal.signal(number, note) for number in STOPS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
