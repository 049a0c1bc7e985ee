"""How good models are on tasks, and whether one is better: arithmetic and files, nothing runs."""
