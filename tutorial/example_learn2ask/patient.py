"""Patients that answer a doctor: one by rules, and one that a model plays."""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from astuner.llm import LanguageModel
from tutorial.example_learn2ask.complaints import topic_of

NOTHING_TO_SAY = "I do not know."


class PatientAnswer(BaseModel):
    """What a patient says, and which of its facts it has told by that."""

    topic: str | None
    """None where the doctor asked for none of them."""
    says: str


class Patient(Protocol):
    """Answers a question of the doctor."""

    async def answer(self, question: str, facts: Mapping[str, str]) -> PatientAnswer:
        """`facts` are all that the patient could tell: topic -> what it says."""
        ...


class PatientByRules:
    """Tells the fact whose words stand in the question; needs no server."""

    async def answer(self, question: str, facts: Mapping[str, str]) -> PatientAnswer:
        topic = topic_of(question)
        if topic not in facts:
            return PatientAnswer(topic=None, says=NOTHING_TO_SAY)
        return PatientAnswer(topic=topic, says=facts[topic])


class PatientByModel:
    """Is played by a model that is not tuned."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    async def answer(self, question: str, facts: Mapping[str, str]) -> PatientAnswer:
        known = "\n".join(f"- {topic}: {fact}" for topic, fact in facts.items())
        messages: list[dict[str, Any]] = [
            {
                "role": "system",
                "content": "You play a patient. Answer the doctor in one short sentence, and tell "
                "only what you are asked for. All that you know, by topic:\n"
                f"{known}\n"
                f"To whatever else you say: {NOTHING_TO_SAY} Give your sentence as `says`, and as "
                "`topic` that of which you told, as it is written above, or null.",
            },
            {"role": "user", "content": question},
        ]
        answer = await self._model.ask(messages, schema=PatientAnswer)
        if answer.topic in facts:
            return answer
        return PatientAnswer(topic=None, says=answer.says)
