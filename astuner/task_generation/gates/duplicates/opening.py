"""From the settings of `filter` to what finds duplicates."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astuner.llm.opening import DASHSCOPE_KEY, DASHSCOPE_URL
from astuner.llm.server import LlmServer
from astuner.task_generation.gates.duplicates.embedder import Embedder, EmbeddingModel
from astuner.task_generation.gates.duplicates.embedding_folder import EmbeddingFolder
from astuner.task_generation.gates.duplicates.embedding_server import EmbeddingServer
from astuner.task_generation.gates.duplicates.embedding_store import EmbeddingStore
from astuner.task_generation.gates.duplicates.semantic_duplicates import SemanticDuplicates


def open_semantic(
    params: Any,
    *,
    llm: Any,
    max_parallel: int,
    environ: Mapping[str, str] = os.environ,
) -> SemanticDuplicates | str:
    """What compares by meaning; or, in words for the user, why nothing can.

    `params` is the section `filter.params`, `llm` the section `astuner.llm`, whose key is used only
    for its own address. Raises ConfigError for a folder without a model, or a store that cannot be.
    """
    if Path(params.model).is_dir():
        model: EmbeddingModel | str = EmbeddingFolder(Path(params.model))
    else:
        model = _open_server(params, llm, max_parallel=max_parallel, environ=environ)
    if isinstance(model, str):
        return model
    store = EmbeddingStore(Path(params.db_path), identity=model.identity)
    return SemanticDuplicates(
        Embedder(model, store), similarity_threshold=params.similarity_threshold
    )


def _open_server(
    params: Any, llm: Any, *, max_parallel: int, environ: Mapping[str, str]
) -> EmbeddingServer | str:
    server = _find_server(params, llm, environ)
    if not server.keys and server.base_url == DASHSCOPE_URL:
        return (
            "questions are compared by their words only, not by meaning: neither "
            f"filter.params.api_key nor {DASHSCOPE_KEY} is set; set one, name another "
            "filter.params.base_url, or a folder with an embedding model in filter.params.model"
        )
    return EmbeddingServer(
        server, params.model, max_parallel=max_parallel, timeout_seconds=llm.timeout_seconds
    )


def _find_server(params: Any, llm: Any, environ: Mapping[str, str]) -> LlmServer:
    if params.api_key:
        where = "filter.params.api_key"
        return LlmServer.read(params.base_url, where, {where: params.api_key})
    if params.base_url == DASHSCOPE_URL:
        return LlmServer.read(params.base_url, DASHSCOPE_KEY, environ)
    is_own = llm.base_url is not None and llm.base_url.rstrip("/") == params.base_url.rstrip("/")
    return LlmServer.read(params.base_url, llm.api_key_env, environ if is_own else {})
