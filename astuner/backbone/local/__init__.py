"""The embedded backbone: one process, one model that both generates and is trained."""
