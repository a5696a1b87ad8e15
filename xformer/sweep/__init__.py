"""Sweeps over configurations.

`space` says what is varied, `study` shares the trials among workers, `trial` makes the runs of one,
`report` says what was found, `live` does so at the terminal, `jobs` submits workers to a cluster.
"""
