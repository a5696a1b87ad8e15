"""The names of the experiments that have a :smoke form, a line each: what `make smoke` runs."""

from experiments.configs import names, variants

if __name__ == '__main__':
    print(*(name for name in names() if 'smoke' in variants(name)), sep='\n')
