"""Waiting for what a command under way does."""

import time


def wait_for(happened, process=None) -> None:
    """Until `happened()`, which must be before the process ends, if there is one."""
    given_up = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < given_up
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.02)
