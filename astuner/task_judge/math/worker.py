r"""Compares expressions with sympy, in a worker process only (see `astuner.workers`)."""

import functools
from typing import Any

MAX_MEMORY_BYTES = 2 * 1024**3


def prepare() -> None:
    is_equal("\\frac{x}{2}", "\\frac{y}{2}")  # loads the grammar, about half a second


def answer(request: dict) -> dict:
    return {"equal": is_equal(request["answer"], request["reference"])}


def is_equal(answer: str, reference: str) -> bool:
    """Of two texts as `plain_math` gives them."""
    from astuner.task_judge.math.equality import equality

    return equality(answer, reference, _same) is True


def _same(answer: str, reference: str) -> bool:
    from astuner.task_judge.math.algebra import same_expression
    from astuner.task_judge.math.equality import same_without_algebra

    verdict = same_without_algebra(answer, reference)
    if verdict is not None:
        return verdict
    try:
        return same_expression(_read(answer), _read(reference))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # whatever a model wrote; sympy raises anything over it
        return False


def _read(text: str) -> Any:
    """`x < 1 or x > 2` is the union of what solves the one and the other."""
    from astuner.task_judge.math.algebra import union_of_solutions

    relations = text.split(" or ")
    if len(relations) == 1:
        return _parsed(text)
    return union_of_solutions([_parsed(relation) for relation in relations])


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Raises what the grammar does where the text is no formula."""
    from latex2sympy2_extended.latex2sympy2 import (
        ConversionConfig,
        NormalizationConfig,
        latex2sympy,
    )

    from astuner.task_judge.math.formula import latex_formula

    return latex2sympy(
        latex_formula(text),
        is_real=True,
        normalization_config=NormalizationConfig(malformed_operators=True, boxed="none"),
        # Its default takes R for r.
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
