"""The folder of a generated set: its files and what stands in them.

Whoever reads a set (the reader, the viewer, a tutorial) knows this file only.

    train.jsonl validation.jsonl    the tasks, as `jsonl_dataset_file` reads them
    test.jsonl                      those of the test, where the set has any
    rejected.jsonl                  what became of every other draft
    chunks.jsonl                    the text that tasks and rejections point to
    card.json README.md             how it was made, for programs and for people
    split.json                      which documents and seeds are on which side, for later additions
    fingerprint.json                what it depends on
    texts/                          the text of documents that take long to read
    ledger.jsonl answers/           every draft as it came, and every answer that was paid for
    earlier/N/                      an earlier set, made from other documents or settings

A task of train.jsonl:

    {"task_id": "guide.md/3/17", "main_query": "How long …?",
     "metadata": {"answer": "25 s", "evidence": "… after 25 s …", "document": "guide.md",
                  "chunk": 3, "style": "fact", "difficulty": "easy", "turn": 17, …}}

`evidence`, `document` and `chunk` are missing where a draft was made from seeds alone. A line of
rejected.jsonl has `turn, side, gate, reason, question, answer, evidence, document, chunk, style,
difficulty`; of drafts that could not be read, the question and what follows are null. A line of
chunks.jsonl has `document, number, headings, text`.
"""

TRAIN_FILE = "train.jsonl"
VALIDATION_FILE = "validation.jsonl"
TEST_FILE = "test.jsonl"
REJECTED_FILE = "rejected.jsonl"
CHUNKS_FILE = "chunks.jsonl"
CARD_FILE = "card.json"
SPLIT_FILE = "split.json"
FINGERPRINT_FILE = "fingerprint.json"
LEDGER_FILE = "ledger.jsonl"
ANSWERS_DIR = "answers"
TEXTS_DIR = "texts"
EARLIER_DIR = "earlier"
