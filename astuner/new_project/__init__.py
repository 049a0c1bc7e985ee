"""Folders to begin with: a workflow, tasks, a judge and a YAML that run at once."""
