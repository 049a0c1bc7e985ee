"""The views of `logview/view`, as text for a terminal, a pipe or a log."""
