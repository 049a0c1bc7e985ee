"""The forms in which the model answers with a draft. Pydantic keeps the order of the fields, and
the model writes in it: first the evidence, then what it asks about it.
"""

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from astuner.task_generation.said_text import SaidText

Kind = Annotated[SaidText, Field(description="The kind that it became; best the one asked for.")]
Level = Annotated[SaidText, Field(description="easy, medium or hard, as it became.")]


class DraftFromText(BaseModel):
    """All empty: the text has nothing to ask about."""

    evidence: SaidText = Field(description="Copied from the text, word by word.")
    question: SaidText
    answer: SaidText
    kind: Kind = ""
    difficulty: Level = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        missing = [name for name in ("evidence", "answer") if not getattr(self, name)]
        if self.question and missing:
            raise ValueError(f"the question has no {missing[0]}")
        return self


class DraftFromExamples(BaseModel):
    question: SaidText = Field(min_length=1)
    solution: SaidText = Field(description="The way to the answer, step by step.")
    answer: SaidText = Field(min_length=1, description="What the solution comes to.")
    kind: Kind = ""
    difficulty: Level = ""
