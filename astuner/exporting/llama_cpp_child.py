"""The process that llama.cpp runs in: serves one file to the process that started it.

Its order is one line of JSON on standard input, its answer the server's address on standard output.
It ends as soon as standard input does, so that it goes with whoever started it.
"""

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    server = _serve(json.loads(sys.stdin.readline()))
    print(server.listening_address, flush=True)  # noqa: T201  # to the process that started it
    sys.stdin.read()
    os._exit(0)  # the server's own end waits for its threads


def _serve(order: dict[str, Any]) -> Any:
    # Its names come out of a compiled module, whose types nobody tells.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = order["file"]
    params.n_ctx = order["num_context"]
    params.cpuparams.n_threads = order["num_threads"]
    params.cpuparams_batch.n_threads = order["num_threads"]
    params.api_keys = [order["key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.n_threads_http = 2
    params.warmup = False
    params.ui = False
    params.fit_params = False  # it would choose another length of context by the free memory
    # What is compared is the file. Half precision of the cache would add to its rounding.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
