"""Benchmarks: cost of the provider compared with alternatives, as tables.

``python -m benchmarks`` (or ``make bench``) runs all, ``python -m benchmarks imports`` (``make bench Q=imports``) the
modules whose names have this prefix, and ``--markdown`` writes the tables to ``docs/design/benchmarks.md``.

A module of this package is a benchmark if it has

``measure(*, smoke: bool = False) -> Iterator[rich.table.Table]``
    Usually one table; its title is the question, its caption the method. With ``smoke`` it takes seconds and needs
    nothing that isn't installed.
``REAL_AIRFLOW = True``
    If it starts an Airflow, which takes at least half a minute. ``--smoke`` skips it unless it is named.

The page marks a module's section with comments, so that each section can be updated alone.

Method: CPU time rather than wall-clock time, alternatives in turns within one run on the same emulator, medians and
ratios, because the machine has other load.
"""
