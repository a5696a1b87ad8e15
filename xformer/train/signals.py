"""Signals that ask for an end: what is done is saved first."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xformer.config import Ending
from xformer.console import say

ONE_WISH = 1.0  # seconds
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
    """Note STOPS instead of dying of them; the same one again, a second later, stops at once.

    What ends a sweep reaches its runs twice, from the terminal or the system as to all of the
    group, and from the sweep as SIGTERM: that is one wish.
    """
    interrupt, begun = Interrupt(), 0.0

    def note(number, frame):
        nonlocal begun
        name = signal.Signals(number).name
        if interrupt.requested == name and time.monotonic() - begun > ONE_WISH:
            raise Stopped(f'stopped at once by a second {name}; the newest checkpoint stands')
        if not interrupt.requested:
            interrupt.requested, begun = name, time.monotonic()
            say(f'{name}: stopping after the next step, saved (again: at once)')

    before = {number: signal.signal(number, note) for number in STOPS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
