"""What a model call costs in the gateways of other tuners, beside ours, in one run.

    python3.12 -m venv .venv-lightning-1
    .venv-lightning-1/bin/pip install agentlightning==1.0.2
    python3.11 -m venv .venv-lightning-0
    .venv-lightning-0/bin/pip install agentlightning==0.3.0 "litellm[proxy]==1.80.11" \\
        opentelemetry-api==1.39.1 opentelemetry-sdk==1.39.1 opentelemetry-exporter-otlp==1.39.1
    python3.11 -m venv .venv-agentjet
    .venv-agentjet/bin/pip install --no-deps agentjet==0.0.1
    .venv-agentjet/bin/pip install fastapi uvicorn websockets openai loguru httpx pyzmq
    python benchmarks/gateway_rivals.py --agent-lightning .venv-lightning-1/bin/python \\
        --agent-lightning-0 .venv-lightning-0/bin/python \\
        --agentjet .venv-agentjet/bin/python --agentjet-source AGENTJET 2> rivals.log

AGENTJET is a checkout of AgentJet's repository, whose gateway is another one than that of 0.0.1.
The load is that of `gateway_cost.py`. Agent-Lightning's proxies pass each call to the server of an
engine, here `backend`, which answers at once and is measured by itself too; ours and AgentJet's
have the engine beside them. AgentJet's runs without the tracker that records the tokens.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.gateway_cost import (
    CALLS_PER_EPISODE,
    HEADING,
    machine,
    measure,
    server,
    started,
)

RIVALS = Path(__file__).parent / "rival_gateways.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    name: str
    python: str
    environment: dict[str, str] = field(default_factory=dict)
    has_backend: bool = False
    """Whether it passes calls to the server of an engine."""
    most_calls_per_client: int | None = None

    @contextlib.contextmanager
    def serving(self, num_episodes: int) -> Iterator[dict]:
        command = [self.python, str(RIVALS), self.name, str(num_episodes)]
        environment = {**os.environ, **self.environment}
        if not self.has_backend:
            with started(command, environment=environment) as found:
                yield found
            return
        with BACKEND.serving(1) as backend:
            environment["BACKEND"] = backend["address"]
            with started(command, environment=environment) as found:
                yield found


BACKEND = Rival(name="backend", python=sys.executable)


def rivals(arguments: argparse.Namespace) -> Iterator[Rival]:
    if arguments.agent_lightning or arguments.agent_lightning_0:
        yield BACKEND
    if python := arguments.agent_lightning:
        yield Rival(name="lightning-1.0", python=python, has_backend=True)
    if python := arguments.agent_lightning_0:
        yield Rival(name="lightning-0.3", python=python, has_backend=True)
    if python := arguments.agentjet:
        # A client waits for up to half a second.
        yield Rival(name="agentjet-0.0.1", python=python, most_calls_per_client=20)
        if source := arguments.agentjet_source:
            yield Rival(name="agentjet-git", python=python, environment={"AGENTJET": source})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent-lightning", help="a Python that has it since 1.0")
    parser.add_argument("--agent-lightning-0", help="a Python that has it before 1.0")
    parser.add_argument("--agentjet", help="a Python that has it")
    parser.add_argument("--agentjet-source", help="a checkout of its repository")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    print(machine(arguments.calls))
    print(HEADING)
    for num_clients in arguments.clients:
        for rival in ("echo", "gateway", *rivals(arguments)):
            num_calls = arguments.calls
            if isinstance(rival, Rival) and rival.most_calls_per_client:
                num_calls = min(num_calls, rival.most_calls_per_client * num_clients)
            num_episodes = max(num_calls, 20) // CALLS_PER_EPISODE + 1
            name, serving = (
                (rival.name, rival.serving(num_episodes))
                if isinstance(rival, Rival)
                else (rival, server(rival, num_episodes))
            )
            with serving as found:
                asyncio.run(measure(found, 1, 20, stream=False))  # warm
                measured = asyncio.run(measure(found, num_clients, num_calls, stream=False))
            print(measured.row(name, num_clients, found["cpu_seconds"]), flush=True)


if __name__ == "__main__":
    main()
