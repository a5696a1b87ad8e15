"""Where the trials of a sweep are kept: a journal in its folder, or a database that all reach."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.pool import NullPool

from xformer.config import UserError
from xformer.console import say

AWAY_SECONDS = 300.0  # that a database may be away
RETRY_SECONDS = 2.0
TRIES = 3  # at making the tables


def _patient(method: Callable) -> Callable:
    """That waits for a database that is away for a moment, as while it is started anew."""
    @functools.wraps(method)
    def call(*args, **kwargs):
        begun = time.monotonic()
        while True:
            try:
                return method(*args, **kwargs)
            except StorageInternalError as error:
                reason = str(error).strip().splitlines()[0]
                if time.monotonic() - begun > AWAY_SECONDS:
                    raise UserError(f'the database of the sweep is away ({reason}); the same '
                                    'command goes on once it is back') from None
                say(f'waiting for the database: {reason}')
                time.sleep(RETRY_SECONDS)
    return call


def storage_of(url: str | None, folder: Path) -> BaseStorage:
    """That of a URL, else a journal in the folder. Raises UserError where it cannot be reached."""
    if url is None:
        return JournalStorage(JournalFileBackend(str(folder / 'journal.log')))
    try:
        storage = optuna.storages.get_storage(_database(url))
    except Exception as error:  # of any database driver
        reason = str(error).strip().splitlines()[0]
        raise UserError(f'cannot use --storage={_without_password(url)} ({reason}); check the URL '
                        "and that its driver is installed: pip install 'xformer[postgres]'"
                        ) from None
    for name in BaseStorage.__abstractmethods__:  # all that is asked of a storage
        setattr(storage, name, _patient(getattr(storage, name)))
    return storage


def _database(url: str) -> RDBStorage:
    """Workers that come to a new database at once all make its tables: the late ones try again."""
    for _ in range(TRIES):
        try:
            return RDBStorage(url, engine_kwargs={'poolclass': NullPool})  # nothing stays open
        except (IntegrityError, ProgrammingError, StorageInternalError) as error:
            late = error
            time.sleep(RETRY_SECONDS)
    raise late


def _without_password(url: str) -> str:
    before, at, after = url.rpartition('@')
    return f'{before.partition(":")[0]}://...@{after}' if at else url
