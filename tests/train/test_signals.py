"""One wish to stop saves first; a second one does not wait."""

import signal
import time

import pytest

from xformer.train import signals
from xformer.train.signals import Stopped, interruptible


def test_what_ends_a_sweep_reaches_its_runs_twice_and_is_one_wish(capsys):
    for first, second in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)):
        before = signal.getsignal(first)
        with interruptible() as interrupt:
            signal.raise_signal(first)
            signal.raise_signal(second)
        assert interrupt.requested == first.name
        assert signal.getsignal(first) is before
    assert capsys.readouterr().err.count('stopping after the next step') == 2


def test_the_same_signal_again_later_stops_at_once(monkeypatch):
    clock = [time.monotonic()]
    monkeypatch.setattr(signals.time, 'monotonic', lambda: clock[0])
    with pytest.raises(Stopped, match='at once by a second SIGINT'):
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            clock[0] += 1.5
            signal.raise_signal(signal.SIGINT)
