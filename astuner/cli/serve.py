"""`astuner serve`: answer clients with a model, as in training and without a run."""

import argparse
import asyncio
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from astuner.cli.until_signal import awaited_signal
from astuner.errors import ConfigError, Quit

if TYPE_CHECKING:
    from astuner.config.load import LoadedConfig
    from astuner.model_server.load import LoadedModels
    from astuner.model_server.order import BaseOrder
    from astuner.model_server.recording import RecordingOptions
    from astuner.model_server.served_model import ServedModels
    from astuner.model_server.server import ModelServer

SUMMARY = "serve a model or a checkpoint: OpenAI's and Anthropic's formats, streams, tools"
EXAMPLE = "astuner serve launcher_record/math_agent/latest/checkpoints/best"

_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.]*=|~[A-Za-z_][\w.]*$")
_LONGEST = 32_768
_GPU_SHARE = 0.85
"""Of the free memory, for keys and values: nothing is trained beside."""

_EPILOG = """\
examples:
  astuner serve launcher_record/math_agent/latest/checkpoints/best
                                             the best checkpoint of the newest run, on this machine
  astuner serve Qwen/Qwen2.5-0.5B-Instruct --adapter math=./step_20 --adapter law=./step_35
                                             one base and two adapters; `model` names one of three
  astuner serve ./exported --host 0.0.0.0 --api-key-env SERVE_KEY
                                             for other machines, who have to show the key
  astuner serve ./exported --record traces   keep what was asked and answered

then, with any client of OpenAI or Anthropic:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "exported", "messages": [{"role": "user", "content": "Hello"}]}'
  OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any").chat.completions.create(...)
  Anthropic(base_url="http://127.0.0.1:8000", api_key="any").messages.create(...)

It answers at /v1/chat/completions, /v1/completions, /v1/responses and /v1/messages, lists its
models at /v1/models, and tells of itself at /healthz (alive), /readyz (answers calls) and /metrics
(Prometheus). Template, tool calls and stop tokens are those of training. Clients may choose
temperature, top_p, top_k, max_tokens, stop, seed, n and logprobs; what the engine cannot do is
refused by name.

An adapter is served beside its base, unmerged, and computes what it did in training. Requests for
different adapters take turns: for the most speed, `astuner export --to merged` and serve that.
It is for one machine; docs/serving.md says how vLLM serves an exported folder at scale.

Keys: without any, only this machine is served. --api-key KEY is seen by everybody who lists the
processes of this machine; --api-key-env NAME and --api-keys-file FILE (a key a line) are not.

Ctrl-C or SIGTERM takes no further calls and lets those under way end; a second one ends them too.
Exit codes: 0 after Ctrl-C, 143 SIGTERM, 1 the model could not be loaded, 2 wrong usage or settings.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner serve",
        description="Serve models over HTTP with the engine, the chat template and the tool calls "
        "of training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="MODEL | key=value",
        help="checkpoints, folders of models or adapters, or names on the hub; and settings to "
        "change, as in astuner.model.dtype=bfloat16",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        type=_adapter,
        default=[],
        metavar="NAME=FOLDER",
        help="serve this adapter on its base too, under the name; may be repeated",
    )
    parser.add_argument(
        "--model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="what clients call the model (default: its folder, or YAML and step of a checkpoint); "
        "repeated, of the models in their order",
    )
    _add_network(parser)
    _add_engine(parser)
    _add_recording(parser)
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("who may ask")
    network.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, which no other machine reaches)",
    )
    network.add_argument(
        "--port", type=_port, default=8000, help="0: any that is free (default: 8000)"
    )
    network.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="a key; may be repeated"
    )
    network.add_argument(
        "--api-key-env",
        action="append",
        default=[],
        metavar="NAME",
        help="the variable of the environment that holds a key; may be repeated",
    )
    network.add_argument(
        "--api-keys-file", type=Path, metavar="FILE", help="a file with a key a line; # is a note"
    )
    network.add_argument(
        "--no-key", action="store_true", help="ask for no key, whoever reaches --host"
    )
    network.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which clients call it, such as that of a proxy; may be repeated",
    )
    network.add_argument(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages whose scripts may ask (CORS), as https://example.org; may be repeated",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("how")
    engine.add_argument(
        "--max-len",
        type=_count,
        metavar="N",
        help="most tokens of prompt and reply together (default: what the model was made for, at "
        f"most {_LONGEST})",
    )
    engine.add_argument(
        "--max-concurrent",
        type=_count,
        metavar="N",
        help="replies that are written together; others wait (default: 256 on a GPU, else 32; "
        "fewer where the memory for keys and values does not reach)",
    )
    engine.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="what calls under way may take at the end (default: 30)",
    )
    engine.add_argument(
        "--conf", type=Path, metavar="FILE", help="a YAML whose model, rollout and gateway count"
    )


def _add_recording(parser: argparse.ArgumentParser) -> None:
    recording = parser.add_argument_group("what is kept of calls: nothing, unless you say so")
    recording.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="write prompts and replies there, as OpenTelemetry's traces, and take "
        "opinions of them at /v1/feedback; personal data and secrets are masked, and a call with "
        "the header x-astuner-record: no is left out",
    )
    recording.add_argument(
        "--record-max-mb",
        type=_count,
        metavar="N",
        help="of the whole folder; the oldest files go (default: all is kept)",
    )
    recording.add_argument(
        "--record-unmasked", action="store_true", help="mask nothing of what is written"
    )


def run(parsed: argparse.Namespace) -> int:
    # Threads that spin for the next piece of a pass take the cores of all others: clients, the
    # event loop, other programs. To be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from astuner import log
    from astuner.config.load import load_for_serving
    from astuner.model_server.order import read_orders

    sources = [word for word in parsed.words if not _is_override(word)]
    if not sources:
        raise ConfigError("serve: no MODEL is named, only settings; name a checkpoint or a model")
    overrides = [word for word in parsed.words if _is_override(word)]
    loaded = load_for_serving(parsed.conf, overrides)
    keys = _keys(parsed)
    orders = read_orders(sources, names=parsed.model_name, adapters=parsed.adapter)
    with log.install(None, "WARNING"):
        number = asyncio.run(_serve(parsed, loaded, orders, keys))
    if number != signal.SIGINT:
        raise Quit(number)
    return 0  # Ctrl-C is how it is meant to end


async def _serve(
    parsed: argparse.Namespace,
    loaded: "LoadedConfig",
    orders: "list[BaseOrder]",
    keys: Sequence[str],
) -> int:
    from astuner.model_server.serving import serve_models

    server = _open(parsed, loaded, keys)
    return await serve_models(
        server,
        lambda: _load(parsed, loaded, orders),
        next_signal=awaited_signal,
        drain_seconds=parsed.drain_seconds,
        on_ready=lambda address, models: _tell(address, models, keys),
        say=_say,
    )


def _open(parsed: argparse.Namespace, loaded: "LoadedConfig", keys: Sequence[str]) -> "ModelServer":
    from astuner.model_server.entrance import listen_for_clients
    from astuner.model_server.server import ModelServer, ServerOptions

    gateway = loaded.settings.gateway
    listening = listen_for_clients(
        parsed.host, parsed.port, has_keys=bool(keys), without_key=parsed.no_key
    )
    options = ServerOptions(
        host=parsed.host,
        keys=keys,
        max_body_bytes=gateway.max_body_bytes,
        max_waiting_calls=gateway.max_waiting_calls,
        allowed_hosts=[*gateway.allowed_hosts, *parsed.allowed_host],
        allowed_origins=parsed.allowed_origin,
    )
    return ModelServer(options, listening, recording=_recording(parsed))


def _recording(parsed: argparse.Namespace) -> "RecordingOptions | None":
    from astuner import __version__
    from astuner.model_server.recording import RecordingOptions

    if parsed.record is None:
        if parsed.record_unmasked or parsed.record_max_mb:
            raise ConfigError("serve: what is recorded, and where? Name a folder by --record")
        return None
    options = RecordingOptions(
        folder=parsed.record,
        is_masked=not parsed.record_unmasked,
        max_mb=parsed.record_max_mb,
        version=__version__,
    )
    _say(options.notice())
    return options


def _load(
    parsed: argparse.Namespace, loaded: "LoadedConfig", orders: "list[BaseOrder]"
) -> "LoadedModels":
    from astuner.model_server.load import ServingOrder, load_models

    rollout, explicit = loaded.settings.rollout, loaded.explicit_keys
    changes: dict[str, object] = {}
    max_concurrent = parsed.max_concurrent
    if max_concurrent is None and "astuner.rollout.max_num_seqs" in explicit:
        max_concurrent = rollout.max_num_seqs
    if "astuner.rollout.gpu_memory_utilization" not in explicit:
        changes["gpu_memory_utilization"] = _GPU_SHARE
    is_long = "astuner.rollout.max_model_len" in explicit
    max_len = parsed.max_len or (rollout.max_model_len if is_long else _LONGEST)
    order = ServingOrder(
        model=loaded.settings.model,
        rollout=rollout.model_copy(update=changes),
        max_len=max_len,
        max_concurrent=max_concurrent,
    )
    return load_models(orders, order, say=_say)


def _tell(address: str, models: "ServedModels", keys: Sequence[str]) -> None:
    for model in models.all():
        drawn = model.own.distribution
        of = f", adapter of {model.base}" if model.base else ""
        _say(
            f"model {model.name}{of}: {model.max_len} tokens; where a client names none, "
            f"temperature={drawn.temperature:g} top_p={drawn.top_p:g} top_k={drawn.top_k} "
            f"({model.own.origin})"
        )
        if model.own.unused:
            asked = ", ".join(model.own.unused)
            _say(
                f"model {model.name}: its generation_config asks for {asked} too, which this "
                "engine does not do, in training neither"
            )
    num = len(set(keys))
    asked = f"{num} key{'s' if num > 1 else ''} let in" if keys else "no key is needed"
    _say(f"{address}/v1 answers; {asked}; Ctrl-C ends it")


def _say(text: str) -> None:
    print(f"astuner serve: {text}", flush=True)


def _keys(parsed: argparse.Namespace) -> list[str]:
    keys = list(parsed.api_key)
    if keys:
        _say("--api-key is seen by all who list processes here; --api-key-env NAME is not")
    for name in parsed.api_key_env:
        if not os.environ.get(name):
            raise ConfigError(f"serve: --api-key-env {name}: the environment has no {name}; set it")
        keys.append(os.environ[name])
    if parsed.api_keys_file is not None:
        keys += _keys_of(parsed.api_keys_file)
    if keys and parsed.no_key:
        raise ConfigError("serve: --no-key is given beside keys; leave one of them out")
    if wrong := [key for key in keys if not key.strip() or not key.isascii() or " " in key]:
        raise ConfigError(
            f"serve: {len(wrong)} of the keys are empty, have a space or no ASCII, which no header "
            "can hold; give others"
        )
    return keys


def _keys_of(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve: --api-keys-file {path} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"serve: --api-keys-file {path} holds no key; write one a line")
    return keys


def _is_override(word: str) -> bool:
    """A folder may be called like one, such as lr=1e-5."""
    return bool(_OVERRIDE.match(word)) and not Path(word).exists()


def _adapter(text: str) -> tuple[str, str]:
    name, is_there, folder = text.partition("=")
    if not (name and is_there and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FOLDER; write math=./step_20")
    return name, folder


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write 1, 2 …")
    return int(text)
