"""Makes tasks out of documents and a few examples: questions with answers and evidence, checked.

Owns the way from a document to a folder of tasks (`generated_set`). Knows no backbone, no rollout
and no settings: whoever starts it gives plain values, a model to ask, and what measures pass rates.
"""

from pathlib import Path
from typing import Any

from astuner.imports import load_object


def __getattr__(name: str) -> Any:
    """`DataGeneratorTaskReader`, which users of other releases import from here.

    By name, since it starts what makes a set, and so stands above all that a set is made from.
    """
    if name != "DataGeneratorTaskReader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_object(f"astuner.generating.data_generator->{name}", search_dirs=(Path.cwd(),))
