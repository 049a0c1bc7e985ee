"""The versions of all prompts that tasks are made with, for the fingerprint of a set."""

from collections.abc import Mapping

from astuner.task_generation import answer_forms
from astuner.task_generation.drafting import prompt
from astuner.task_generation.gates import answer_comparer, answerable, closed_book


def prompt_versions() -> Mapping[str, int]:
    return {
        "draft": prompt.VERSION,
        "answer_forms": answer_forms.VERSION,
        "answerable": answerable.VERSION,
        "closed_book": closed_book.VERSION,
        "compare": answer_comparer.VERSION,
    }
