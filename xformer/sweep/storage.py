"""Where the trials of a sweep are kept: a journal in its folder, or a database that all reach."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from xformer.config import UserError
from xformer.console import say

AWAY_SECONDS = 300.0  # that a database may be away
RETRY_SECONDS = 2.0
TRIES = 3  # at making the tables
LONGEST_LINE = 2**20  # of a journal, in bytes


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
        path = str(folder.resolve() / 'journal.log')  # a link to it is the lock
        return JournalStorage(JournalFileBackend(path, _WholeLines(path)))
    try:
        storage = optuna.storages.get_storage(_database(url))
    except Exception as error:  # of any database driver
        reason = str(error).strip().splitlines()[0]
        raise UserError(f'cannot use --storage={_without_password(url)} ({reason}); check the URL '
                        "and that its driver is installed: in xformer's folder, "
                        "pip install -e '.[postgres]'") from None
    for name in BaseStorage.__abstractmethods__:  # all that is asked of a storage
        setattr(storage, name, _patient(getattr(storage, name)))
    return storage


def _database(url: str) -> RDBStorage:
    """Workers that come to a new database at once all make its tables: the late ones try again."""
    for left in reversed(range(TRIES)):
        try:
            return RDBStorage(url, engine_kwargs={'poolclass': NullPool})  # nothing stays open
        except (SQLAlchemyError, StorageInternalError) as error:
            said = str(error).lower()
            others = any(word in said for word in ('already exists', 'unique', 'duplicate'))
            if not (left and others):
                raise
        time.sleep(RETRY_SECONDS)


class _WholeLines(JournalFileSymlinkLock):
    """The lock of a journal; who takes it cuts off what a full disk has left of a line, which
    with more behind it nobody could read again."""

    def __init__(self, path: str):
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        taken = super().acquire()
        try:
            self._cut()
        except OSError:
            self.release()
            raise
        return taken

    def _cut(self) -> None:
        with open(self._path, 'rb+') as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if file.read() not in (b'', b'\n'):
                start = file.seek(max(0, end - LONGEST_LINE))
                file.truncate(start + file.read().rfind(b'\n') + 1)


def _without_password(url: str) -> str:
    before, at, after = url.rpartition('@')
    return f'{before.partition(":")[0]}://...@{after}' if at else url
