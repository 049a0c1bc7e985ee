"""Models as transformers has them: loading, adapters, checkpoints."""
