"""The shapes in which a workflow gets its model, and which model answers.

`routed.py` decides who answers a call, `remote.py` answers it with another server, and the others
are chat models of agent frameworks. They know `Chat`, and not how it answers.
"""
