"""Evaluations carried out: models, tasks and run directories; the statistics are `evaluation/`."""
