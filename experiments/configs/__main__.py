"""The names of the experiments that have a :smoke form, a line each: what `make smoke` runs."""

from experiments.configs import load, names
from xformer.config import UserError

if __name__ == '__main__':
    for name in names():
        try:
            load(f'{name}:smoke')
        except UserError:  # a recipe that needs data from the internet has none
            continue
        print(name)
