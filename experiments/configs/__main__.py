"""The names of the experiments that have a :smoke form, a line each: what `make smoke` runs.

Those that begin with another's run come last; on stderr those whose data are out of reach.
"""

import sys

from experiments.configs import load, names, variants
from xformer.data.sources.datasets import is_in_reach

if __name__ == '__main__':
    smoking = {name: load(f'{name}:smoke').config for name in names() if 'smoke' in variants(name)}
    for name, config in sorted(smoking.items(), key=lambda item: item[1].train.init_from):
        if all(map(is_in_reach, config.data.dataset.split('+'))):
            print(name)
        else:
            print(f'{name}: left out, for data set {config.data.dataset} is not here '
                  '(docs/data.md)', file=sys.stderr)
