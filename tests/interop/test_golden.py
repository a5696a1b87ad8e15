"""What transformers computed with a small checkpoint of each family is computed here."""

import pytest
from golden_checkpoints import FILES, make_folder, read
from parity import differences, measured

from xformer.interop.families import FAMILIES


def test_there_is_one_of_every_family():
    assert FILES.keys() == FAMILIES.keys()


@pytest.mark.parametrize('name', FILES)
def test_the_same_numbers(name, tmp_path):
    config, tensors, batch, theirs = read(name)
    ours = measured(make_folder(tmp_path, config, tensors), batch)
    apart = differences(ours, theirs, batch)
    assert {'logits', 'loss'} < set(apart)
    assert sum(each.startswith('gradients/') for each in apart) > 1
    assert max(apart.values()) <= 1e-4, sorted(apart.items(), key=lambda item: -item[1])[:5]
