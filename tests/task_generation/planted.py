"""Drafts with known faults, over three short documents: what a gate should take, and leave.

Each draft says which fault was planted, by the gate that is for it, and what a faithful reader
answers with its text and what somebody who knows a lot answers without it. Among those without a
fault are the ones that a careless gate would take: questions of one template, addresses of
documentation, numbers of arithmetic, a question about documents.
"""

from dataclasses import dataclass

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import DraftCandidate, DraftStyle, DraftTurn, TaskDraft

KEY = "ghp" + "_R4nd0mLettersAndD1gitsOf36Chars0Xyz7"
"""Put together here, so that those who look for keys in this file find none."""
GATEWAY = DocumentChunk(
    document="gateway.md",
    number=0,
    headings=("Tarn gateway", "Limits"),
    text=f"""The Tarn gateway waits 25 seconds for an upstream server. After that it sends the
request once more, to another server of the pool, and answers with status 504 if this one is silent
too. A request body may have at most 8 MiB; larger ones are refused with status 413.

The setting `max_calls` is 10000 by default, and `max_tokens` is 2000000. When either of them is
reached, calls under way are finished and new ones are refused. The admin page listens on port 8081
and the metrics page on port 9117. Both are bound to 127.0.0.1 and have no password.

Operators report faults to support@tarn.example. The first operator, Mira Holt, can be reached at
mira.holt@tarnworks.io or +49 30 23125 114, or at home, Lindenweg 4 in Aldern.
The staging key is {KEY}.
""",
)
BREAD = DocumentChunk(
    document="bread.md",
    number=0,
    headings=("Rye loaf",),
    text="""Feed the starter with 50 g of rye flour and 50 g of water in the evening. In the morning
mix it with 400 g of flour, 280 g of water and 9 g of salt. The dough rests for ninety minutes under
a damp cloth before it is shaped, and for another forty minutes in its basket.

Bake the loaf at 240 degrees for the first fifteen minutes, with steam, and at 200 degrees for
another thirty-five. It is done when it sounds hollow. Let it cool for two hours before you cut it:
the crumb is still setting. In the refrigerator the starter keeps for two weeks without being fed.
""",
)
LIBRARY = DocumentChunk(
    document="bibliothek.md",
    number=0,
    headings=("Benutzungsordnung",),
    text="""Die Stadtbücherei Aldern leiht Bücher für vier Wochen und Filme für eine Woche aus. Eine
Verlängerung ist zweimal möglich, solange niemand das Buch vorgemerkt hat. Kinder unter zwölf Jahren
erhalten einen Ausweis, wenn ein Elternteil unterschreibt; er ist kostenlos.

Für jede angefangene Woche nach dem Ende der Leihfrist werden 50 Cent fällig, höchstens jedoch
6 Euro je Buch. Wer mehr als 15 Euro schuldet, kann nichts mehr ausleihen. Lehrkräfte dürfen für
ihren Unterricht bis zu dreißig Bücher zugleich mitnehmen.
""",
)

FACT = DraftStyle(name="fact", instructions="Ask for one fact.")
UNKNOWN = "?"
"""In place of an answer: the reader does not know."""
UNCLEAR = "??"
"""In place of an answer without the text: the question cannot be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedDraft:
    """A draft with its label."""

    candidate: DraftCandidate
    gate: str | None
    """Which gate is for the fault; None: it has none."""
    fault: str
    with_text: str
    """What a faithful reader answers from the chunk."""
    without_text: str
    """What the same reader answers from what is known to everybody."""


_drafts: list[PlantedDraft] = []


def _plant(
    chunk: DocumentChunk,
    question: str,
    answer: str,
    evidence: str,
    *,
    gate: str | None = None,
    fault: str = "none",
    with_text: str | None = None,
    without_text: str = UNKNOWN,
) -> None:
    turn = DraftTurn(
        number=len(_drafts),
        side="train",
        chunk=chunk,
        examples=(),
        style=FACT,
        difficulty="easy",
        language=None,
        round=0,
    )
    draft = TaskDraft(
        question=question, answer=answer, evidence=evidence, style="fact", difficulty="easy"
    )
    _drafts.append(
        PlantedDraft(
            candidate=DraftCandidate(turn=turn, draft=draft),
            gate=gate,
            fault=fault,
            with_text=answer if with_text is None else with_text,
            without_text=without_text,
        )
    )


_plant(
    GATEWAY,
    "How many seconds does the Tarn gateway wait for an upstream server?",
    "25",
    "The Tarn gateway waits 25 seconds for an upstream server.",
)
_plant(
    GATEWAY,
    "What is the default of the setting `max_calls` of the Tarn gateway?",
    "10000",
    "The setting `max_calls` is 10000 by default",
)
_plant(
    GATEWAY,
    "What is the default of the setting `max_tokens` of the Tarn gateway?",
    "2000000",
    "max_tokens is 2000000",
)
_plant(
    GATEWAY,
    "Which port does the admin page of the Tarn gateway listen on?",
    "8081",
    "The admin page listens on port 8081",
)
_plant(
    GATEWAY,
    "Which port does the metrics page of the Tarn gateway listen on?",
    "9117",
    "the metrics page on port 9117",
)
_plant(
    GATEWAY,
    "To which e-mail address do operators of the Tarn gateway report faults?",
    "support@tarn.example",
    "Operators report faults to support@tarn.example.",
)
_plant(
    GATEWAY,
    "With which status does the Tarn gateway refuse a document of 9 MiB sent to the document API?",
    "413",
    "A request body may have at most 8 MiB; larger ones are refused with status 413.",
)
_plant(
    GATEWAY,
    "If 1234567890 tokens were used, how many times over would the default `max_tokens` of the "
    "Tarn gateway be used up?",
    "617",
    "and `max_tokens` is 2000000",
)
_plant(
    BREAD,
    "How many grams of salt go into the rye loaf?",
    "9",
    "400 g of flour, 280 g of water and 9 g of salt",
)
_plant(
    BREAD,
    "How long does the dough of the rye loaf rest before it is shaped?",
    "Ninety minutes",
    "The dough rests for ninety minutes under\na damp cloth before it is shaped",
)
_plant(
    BREAD,
    "How long should the rye loaf cool before it is cut?",
    "Two hours",
    "Let it cool for two hours before you cut it",
)
_plant(
    BREAD,
    "How long does the starter of the rye loaf keep in the refrigerator without being fed?",
    "Two weeks",
    "In the refrigerator the starter keeps for two weeks without being fed.",
)
_plant(
    BREAD,
    "How many minutes does the rye loaf bake at the first of its temperatures?",
    "Fifteen minutes",
    "Bake the loaf at 240 degrees for the first fifteen minutes",
)
_plant(
    BREAD,
    "How many minutes does the rye loaf bake at the second of its temperatures?",
    "Thirty-five minutes",
    "and at 200 degrees for\nanother thirty-five.",
)
_plant(
    GATEWAY,
    "Which address are the admin page and the metrics page of the Tarn gateway bound to?",
    "127.0.0.1",
    "The admin page listens on port 8081 … Both are bound to 127.0.0.1",
)
_plant(
    LIBRARY,
    "Für wie viele Wochen leiht die Stadtbücherei Aldern Bücher aus?",
    "Vier Wochen",
    "Die Stadtbücherei Aldern leiht Bücher für vier Wochen",
)
_plant(
    LIBRARY,
    "Wie viele Bücher dürfen Lehrkräfte in der Stadtbücherei Aldern zugleich mitnehmen?",
    "Dreißig",
    "Lehrkräfte dürfen für ihren Unterricht bis zu dreißig Bücher zugleich mitnehmen.",
)
_plant(
    LIBRARY,
    "Wie viele Filme dürfen Kinder in der Stadtbücherei Aldern zugleich mitnehmen?",
    "Fünf",
    "Kinder dürfen fünf Filme zugleich mitnehmen.",
    gate="evidence",
    fault="evidence that is not in the text",
)
_plant(
    BREAD,
    "At how many degrees does the rye loaf begin to bake?",
    "240",
    "Bake the loaf at 250 degrees for the first fifteen minutes",
    gate="evidence",
    fault="evidence with a changed number",
)
_plant(
    BREAD,
    "How much water does the starter of the rye loaf get in the evening?",
    "50 g",
    "50 g",
    gate="evidence",
    fault="evidence that is only the answer",
)
_plant(
    GATEWAY,
    "According to the text, which status does a silent server lead to?",
    "504",
    "answers with status 504 if this one is silent",
    gate="self_contained",
    fault="points to the text",
)
_plant(
    BREAD,
    "How many minutes does the author recommend for the basket?",
    "40",
    "another forty minutes in its basket",
    gate="self_contained",
    fault="points to its author",
)
_plant(
    LIBRARY,
    "Wie hoch ist die im obigen Abschnitt genannte Höchstgebühr je Buch?",
    "6 Euro",
    "höchstens jedoch\n6 Euro je Buch",
    gate="self_contained",
    fault="points to the text, in German",
)
_plant(
    GATEWAY,
    "How long does it wait before it sends the request once more?",
    "25 seconds",
    "waits 25 seconds for an upstream server",
    gate="self_contained",
    fault="names nothing that it asks about",
    without_text=UNCLEAR,
)
_plant(
    GATEWAY,
    "In which street does Mira Holt, the first operator of the Tarn gateway, live?",
    "Lindenweg",
    "or at home, Lindenweg 4 in Aldern",
    gate="personal_data",
    fault="where a person lives",
)
_plant(
    GATEWAY,
    "How is the first operator of the Tarn gateway, Mira Holt, reached by mail?",
    "mira.holt@tarnworks.io",
    "Mira Holt, can be reached at\nmira.holt@tarnworks.io",
    gate="personal_data",
    fault="an e-mail address of a person",
)
_plant(
    GATEWAY,
    "Which number does one call to speak to the first operator of the Tarn gateway?",
    "+49 30 23125 114",
    "mira.holt@tarnworks.io or +49 30 23125 114",
    gate="personal_data",
    fault="a telephone number",
)
_plant(
    GATEWAY,
    "What is the staging key of the Tarn gateway?",
    KEY,
    f"The staging key is {KEY}.",
    gate="personal_data",
    fault="a secret",
)
_plant(
    GATEWAY,
    "how many seconds does the tarn gateway wait for an upstream server",
    "25 seconds",
    "The Tarn gateway waits 25 seconds for an upstream server.",
    gate="duplicates",
    fault="the same words",
)
_plant(
    BREAD,
    "So how long does the starter of the rye loaf keep in the refrigerator without being fed?",
    "Two weeks",
    "the starter keeps for two weeks without being fed",
    gate="duplicates",
    fault="nearly the same words",
)
_plant(
    LIBRARY,
    "Wie viele Bücher dürfen Lehrkräfte in der Stadtbücherei Aldern gleichzeitig mitnehmen?",
    "Bis zu dreißig",
    "Lehrkräfte dürfen für\nihren Unterricht bis zu dreißig Bücher zugleich mitnehmen",
    gate="duplicates",
    fault="nearly the same words, in German",
)
_plant(
    BREAD,
    "What is the resting time of the rye loaf's dough ahead of shaping?",
    "Ninety minutes",
    "The dough rests for ninety minutes",
    gate="duplicates",
    fault="a paraphrase",
)
_plant(
    GATEWAY,
    "What port is used for the admin page of the Tarn gateway?",
    "8081",
    "The admin page listens on port 8081",
    gate="duplicates",
    fault="a paraphrase",
)
_plant(
    BREAD,
    "For what amount of time must one leave a rye loaf alone after baking until slicing it?",
    "2 hours",
    "Let it cool for two hours before you cut it",
    gate="duplicates",
    fault="a paraphrase in distant words",
)
_plant(
    LIBRARY,
    "Wie viel kostet in der Stadtbücherei Aldern ein Ausweis für ein Kind unter zwölf Jahren?",
    "3 Euro",
    "Kinder unter zwölf Jahren\nerhalten einen Ausweis, wenn ein Elternteil unterschreibt",
    gate="answerable",
    fault="an answer that the text contradicts",
    with_text="Nichts",
)
_plant(
    GATEWAY,
    "How many servers does a pool of the Tarn gateway have?",
    "2",
    "request once more, to another server of the pool",
    gate="answerable",
    fault="an answer that the text does not give",
    with_text=UNKNOWN,
)
_plant(
    BREAD,
    "Who invented the recipe of the rye loaf that is baked at 240 and then 200 degrees?",
    "A baker",
    "Bake the loaf at 240 degrees for the first fifteen minutes, with steam",
    gate="answerable",
    fault="nothing in the text answers it",
    with_text=UNKNOWN,
)
_plant(
    BREAD,
    "A rye loaf bakes at 240 degrees for fifteen minutes and at 200 for thirty-five: how many "
    "minutes together?",
    "50",
    "at 240 degrees for the first fifteen minutes",
    gate="closed_book",
    fault="the question holds all that its answer needs",
    without_text="50",
)
_plant(
    GATEWAY,
    "Which HTTP status says that a request body is too large?",
    "413",
    "larger ones are refused with status 413",
    gate="closed_book",
    fault="known without the text",
    without_text="413",
)

PLANTED: tuple[PlantedDraft, ...] = tuple(_drafts)
"""In the order of their turns; what repeats another comes behind it."""
