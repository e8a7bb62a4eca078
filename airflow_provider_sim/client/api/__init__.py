"""What to send to Sim and how to read its answers, without any I/O.

A dialect's function turns a question into an :class:`exchange.Call`: the request as a value, and the function that
reads the response into a model or raises a ``SimError``. ``v2`` speaks ``/api/v2``; ``legacy`` speaks
``/api/workflows``, ``/api/jobs`` and everything that was there before.
"""
