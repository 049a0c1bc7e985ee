r"""Compares expressions with math-verify, in a worker process only (see `astuner.workers`)."""

MAX_MEMORY_BYTES = 2 * 1024**3


def prepare() -> None:
    is_equal("\\frac{1}{2}", "0.5")  # loads the grammar, about half a second


def answer(request: dict) -> dict:
    return {"equal": is_equal(request["answer"], request["reference"])}


def is_equal(answer: str, reference: str) -> bool:
    # math-verify's own time limits use the alarm that is the worker's, and miss C code.
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [
        parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=0)
        for text in (reference, answer)
    ]
    return all(parsed) and verify(parsed[0], parsed[1], timeout_seconds=0)
