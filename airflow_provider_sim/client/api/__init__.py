"""Sim's two APIs without I/O.

A function per endpoint turns its arguments into a :class:`.http.Call`: the request as a value, and the functions that
turn the response into a model or a ``SimError``. ``v2`` is for ``/api/v2``; ``legacy`` is for ``/api/workflows``,
``/api/jobs`` and all other older routes.
"""
