"""Making sets of tasks where no run is started: for the command, and from Python.

Owns who waits, what a signal does, and what is shown; `backbone.generated_tasks` makes the sets.
"""
