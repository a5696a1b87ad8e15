"""Sweeps over configurations.

`space` says what is varied, `study` shares the trials among workers, `trial` makes the runs of one,
`report` says what was found.
"""
