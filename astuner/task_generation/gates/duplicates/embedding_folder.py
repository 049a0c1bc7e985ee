"""A sentence-embedding model in a local folder, by transformers."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy

from astuner.errors import ConfigError

_MAX_TOKENS = 512
_MEGABYTE = 1 << 20


class EmbeddingFolder:
    """The mean of the last hidden states, as most sentence-embedding models are trained to give."""

    max_batch = 64

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where nothing there can be loaded."""
        try:
            if not (folder / "config.json").is_file():
                raise OSError("it has no config.json")
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        except (ImportError, OSError, ValueError) as error:
            raise ConfigError(
                f"task_reader.data_generation.filter.params.model = {str(folder)!r}: no embedding "
                f"model can be loaded from this folder: {error}; it needs config.json, weights "
                "and a tokenizer, and pip install 'astuner[local]'"
            ) from error
        self.identity = _digest_of_folder(folder)
        self._lock = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> numpy.ndarray:
        async with self._lock:
            return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: Sequence[str]) -> numpy.ndarray:
        import torch

        limit = min(_MAX_TOKENS, self._tokenizer.model_max_length)
        encoded = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.inference_mode():
            states_BTD = self._model(**encoded).last_hidden_state.float()
        mask_BT1 = encoded["attention_mask"].unsqueeze(-1).float()
        return ((states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)).numpy()


def _digest_of_folder(folder: Path) -> str:
    """Of the files of the model: their sizes and how each begins, since weights are large."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model"):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                digest.update(file.read(_MEGABYTE))
    return digest.hexdigest()
