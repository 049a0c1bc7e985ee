"""The shapes in which a workflow gets its model, and which model answers."""
