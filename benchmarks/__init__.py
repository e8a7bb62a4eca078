"""What the provider costs beside its peers: questions, answered by tables from one run each.

``python -m benchmarks`` (or ``make bench``) answers all, ``python -m benchmarks imports`` (``make bench Q=imports``)
those of the modules whose names begin so, and ``--markdown`` writes the tables into ``docs/benchmarks.md``, too.

A module of this package is a benchmark if it has

``measure(*, smoke: bool = False) -> Iterator[rich.table.Table]``
    mostly one table, whose title is the question, and whose caption says how it was measured. With ``smoke`` everything
    is tiny, takes seconds and needs nothing that isn't installed: the tests run it so;
``REAL_AIRFLOW = True``
    where it starts one, which takes half a minute at least: the tests then have a marker.

Its section of the page has the module's name in a comment at its begin and end, so that each can be written anew alone.

Processor time rather than time on the clock, peers in turns within the same run and on the same emulator, medians, and
ratios rather than figures: the machine has other work, and yours is another.
"""
