"""What a model call costs in the gateways of other tuners, beside ours, in one run.

    python -m venv .venv-lightning
    .venv-lightning/bin/pip install agentlightning==0.3.0 "litellm[proxy]==1.80.11"
    python -m venv .venv-agentjet
    .venv-agentjet/bin/pip install --no-deps agentjet==0.0.1
    .venv-agentjet/bin/pip install fastapi uvicorn websockets openai loguru
    python benchmarks/gateway_rivals.py --agent-lightning .venv-lightning/bin/python \\
        --agentjet .venv-agentjet/bin/python

The load is that of `gateway_cost.py`. Agent-Lightning's proxy passes each call to the server of an
engine, here `backend`, which answers at once and is measured by itself too; ours and AgentJet's
have the engine in their process. AgentJet's runs without the tracker that records the tokens.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
def rival(name: str, python: str, num_episodes: int) -> Iterator[dict]:
    """The gateway of a rival, behind Agent-Lightning's the backend."""
    if name != "agent-lightning":
        with started([python, str(RIVALS), name, str(num_episodes)]) as found:
            yield found
        return
    with rival("backend", python, 1) as backend:
        environment = {**os.environ, "BACKEND": backend["address"]}
        command = [python, str(RIVALS), name, str(num_episodes)]
        with started(command, environment=environment) as found:
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent-lightning", help="a Python that has it")
    parser.add_argument("--agentjet", help="a Python that has it")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    pythons = {
        "backend": arguments.agent_lightning,
        "agent-lightning": arguments.agent_lightning,
        "agentjet": arguments.agentjet,
    }
    print(machine(arguments.calls))
    print(HEADING)
    for num_clients in arguments.clients:
        # A client of AgentJet waits for half a second.
        calls = {"agentjet": min(arguments.calls, 20 * num_clients)}
        for name in ("echo", "gateway", *(name for name in pythons if pythons[name])):
            num_calls = calls.get(name, arguments.calls)
            num_episodes = max(num_calls, 20) // CALLS_PER_EPISODE + 1
            python = pythons.get(name)
            serving = rival(name, python, num_episodes) if python else server(name, num_episodes)
            with serving as found:
                asyncio.run(measure(found, 1, 20, stream=False))  # warm
                measured = asyncio.run(measure(found, num_clients, num_calls, stream=False))
            print(measured.row(name, num_clients, found["cpu_seconds"]), flush=True)


if __name__ == "__main__":
    main()
