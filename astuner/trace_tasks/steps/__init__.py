"""The steps from a trace to a task, one file each; their table is `trace_tasks/known_steps.py`."""
