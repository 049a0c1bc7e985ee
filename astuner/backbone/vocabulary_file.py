"""The vocabulary of a run in its directory, so that its token ids can be read without its model."""

import json
import logging
from typing import Any

from astuner.inference.vocabulary import vocabulary_to_record
from astuner.run_dir import RunDir, naming_the_file

logger = logging.getLogger(__name__)


def write_vocabulary(run_dir: RunDir, tokenizer: Any) -> None:
    """Write vocabulary.json, whole or not at all; that of an earlier start of the run stays.

    Raises AstunerError where the file system refuses, BackboneError where the run directory is
    gone.
    """
    path = run_dir.vocabulary_file
    run_dir.check_is_there()
    if path.exists():
        return
    try:
        record = vocabulary_to_record(tokenizer)
    except Exception as error:  # noqa: BLE001  # tokenizers of many makers, and no run needs it
        logger.warning("vocabulary not written tokenizer=%s: %s", type(tokenizer).__name__, error)
        return
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    partial = path.with_suffix(".partial")
    with naming_the_file(path):
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(path)
