"""Both sides must compute the same before anything is timed."""

import numpy as np

from xformer.console import say


def announce(title: str) -> None:
    """Tell who waits what is done first; most of the time goes to compiling."""
    say(f'{title}: checking that all sides compute the same')


def check_close(what: str, ours, theirs, limit: float) -> float:
    """The largest difference relative to the peer's largest magnitude.

    Raises RuntimeError beyond `limit`, where something is not a number, and for unequal shapes.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise RuntimeError(f'{what}: ours has the shape {ours.shape}, the peer {theirs.shape}')
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference <= limit:
        raise RuntimeError(f'{what} differs by {difference:.1e}, more than {limit:.0e}')
    return difference


def check_same(what: str, ours, theirs) -> float:
    """0.0 for equal integers. Raises RuntimeError at the first place where they differ."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise RuntimeError(f'{what}: ours has the shape {ours.shape}, the peer {theirs.shape}')
    differs = np.argwhere(ours != theirs)
    if len(differs):
        raise RuntimeError(f'{what} differs in {len(differs)} of {ours.size} places, first at '
                           f'{tuple(differs[0].tolist())}')
    return 0.0
