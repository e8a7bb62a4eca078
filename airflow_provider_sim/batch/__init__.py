"""Batches: many runs in one task.

- :mod:`.items`: the inputs, checked;
- :mod:`.state`: the status and run ID of each input;
- :mod:`.engine`: starts the runs and waits for them;
- :mod:`.reconcile`: finds the runs of an earlier process, and cancels runs;
- :mod:`.chunks`: inputs that a worker leaves to the triggerer;
- :mod:`.results`: outputs, in the order of the inputs.
"""
