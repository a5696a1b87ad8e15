import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_data(monkeypatch) -> Path:
    """The folder with the known data sets; skips where it is absent."""
    beside = Path(__file__).parents[3] / 'shared' / 'data'
    folder = Path(os.environ.get('XFORMER_DATA') or beside)
    if not (folder / 'cmudict' / 'train.tsv.gz').is_file():
        pytest.skip(f'no data sets in {folder}; set XFORMER_DATA')
    monkeypatch.setenv('XFORMER_DATA', str(folder))
    return folder
