"""What token ids stand for, as a run writes it down."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from astuner.backbone.vocabulary_file import write_vocabulary
from astuner.errors import BackboneError
from astuner.inference.vocabulary import vocabulary_to_record
from astuner.run_dir import RunDir
from tests.template_families import FAMILIES

TEXTS = ("What is 2 plus 3?", "naïve façade\n\n\tend", "日本語 と 🙂🙃", "two  spaces", "é")
SPECIAL = "<s>"
KINDS = {kind: family for family in FAMILIES for kind in family.tokenizers}


def piece(token) -> bytes:
    return token.encode() if isinstance(token, str) else bytes.fromhex(token["bytes"])


def joined(record, ids) -> str:
    return b"".join(piece(record["tokens"][id_]) for id_ in ids).decode(errors="replace")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_joined_pieces_are_what_the_tokenizer_decodes(kind, text):
    tokenizer = KINDS[kind].tokenizer(kind)
    record = vocabulary_to_record(tokenizer)
    assert len(record["tokens"]) == len(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert joined(record, ids).removeprefix(" ") == decoded.removeprefix(" ")
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("kind", KINDS)
def test_special_and_added_tokens_are_named_and_whole(kind):
    tokenizer = KINDS[kind].tokenizer(kind)
    tokenizer.add_tokens(["⟨tool⟩"])
    record = vocabulary_to_record(tokenizer)
    ids = tokenizer.convert_tokens_to_ids([SPECIAL, tokenizer.eos_token, "⟨tool⟩"])
    assert set(ids) <= set(record["special"])
    assert [record["tokens"][id_] for id_ in ids] == [SPECIAL, tokenizer.eos_token, "⟨tool⟩"]
    assert set(record["special"]) == {*tokenizer.added_tokens_decoder}


def test_a_part_of_a_character_stands_as_its_bytes():
    (kind,) = {"byte level"} & KINDS.keys()
    tokenizer = KINDS[kind].tokenizer(kind)
    tokens = vocabulary_to_record(tokenizer)["tokens"]
    ids = tokenizer.encode("🙃", add_special_tokens=False)
    assert b"".join(piece(tokens[id_]) for id_ in ids) == "🙃".encode()
    assert any(isinstance(tokens[id_], dict) for id_ in ids)


def test_a_letter_that_byte_level_spelling_also_uses_is_a_letter_for_sentencepiece():
    words = {"<unk>": 0, "▁é": 1, "é": 2, "<0xC3>": 3, "<0xA9>": 4, "<0xFFF>": 5}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokens = vocabulary_to_record(fast)["tokens"]
    assert tokens == ["<unk>", " é", "é", {"bytes": "c3"}, {"bytes": "a9"}, "<0xFFF>"]


def test_other_spellings_are_asked_of_the_tokenizer():
    words = {"[UNK]": 0, "two": 1, "words": 2}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="[UNK]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert vocabulary_to_record(fast)["tokens"] == ["[UNK]", "two", "words"]


def test_it_is_written_once_and_whole(tmp_path):
    tokenizer = FAMILIES[0].tokenizer(FAMILIES[0].tokenizers[0])
    run = RunDir(root=tmp_path)
    write_vocabulary(run, tokenizer)
    assert json.loads(run.vocabulary_file.read_text()) == vocabulary_to_record(tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]
    run.vocabulary_file.write_text("{}")
    write_vocabulary(run, tokenizer)
    assert run.vocabulary_file.read_text() == "{}"


def test_a_tokenizer_of_another_make_costs_a_warning_and_no_run(tmp_path, caplog):
    write_vocabulary(RunDir(root=tmp_path), object())
    assert list(tmp_path.iterdir()) == []
    assert "vocabulary not written tokenizer=object" in caplog.text


def test_none_is_written_where_the_run_directory_is_gone(tmp_path):
    tokenizer = FAMILIES[0].tokenizer(FAMILIES[0].tokenizers[0])
    with pytest.raises(BackboneError, match="is gone"):
        write_vocabulary(RunDir(root=tmp_path / "gone"), tokenizer)
    assert not (tmp_path / "gone").exists()
