"""The names of the experiments that have a :smoke form, a line each: what `make smoke` runs.

Those that begin with another experiment's run come last.
"""

from experiments.configs import load, names, variants

if __name__ == '__main__':
    smoking = (name for name in names() if 'smoke' in variants(name))
    print(*sorted(smoking, key=lambda name: load(f'{name}:smoke').config.train.init_from), sep='\n')
