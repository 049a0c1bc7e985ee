"""Asks a model for a question with its answer: styles, the prompt, and what is no draft."""
