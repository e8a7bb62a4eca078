"""Many runs in one task.

- :mod:`.items`: what was handed in, checked;
- :mod:`.journal`: which input has which run, and how it stands; fits into a line;
- :mod:`.pace`: when the next run may be started;
- :mod:`.engine`: starts them, waits for them, cancels them;
- :mod:`.results`: what they have returned, in the order of the inputs.

Nothing but :mod:`.engine` talks to Sim, and nothing here knows of Airflow's tasks.
"""
