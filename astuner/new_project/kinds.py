"""What a project may begin from. Its files lie in `files/KIND`, and over those of `files/all`."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectKind:
    """One of the choices of `astuner init --from`."""

    summary: str
    """For a list of choices."""
    packages: tuple[str, ...]
    """Modules that its workflow imports."""
    install: str
    """What pip is told where one is missing."""
    reads_tasks: bool = True
    """Whether its tasks are files; else they are its environment's."""


_AGENTSCOPE = {"packages": ("agentscope",), "install": "astuner[local,agentscope,openai]"}
_OPENAI = {"packages": ("openai",), "install": "astuner[local,openai]"}

KINDS: Mapping[str, ProjectKind] = {
    "math": ProjectKind(summary="a ReAct agent of AgentScope that adds", **_AGENTSCOPE),
    "openai": ProjectKind(summary="one call by the client of OpenAI", **_OPENAI),
    "tools": ProjectKind(summary="a loop of tool calls by the client of OpenAI", **_OPENAI),
    "langgraph": ProjectKind(
        summary="a graph with two nodes",
        packages=("langgraph", "langchain_openai"),
        install="astuner[local,openai] langgraph langchain-openai",
    ),
    "multi-agent": ProjectKind(
        summary="two agents of AgentScope, each with a reward of its own", **_AGENTSCOPE
    ),
    "environment": ProjectKind(
        summary="an agent in a world of its own", reads_tasks=False, **_OPENAI
    ),
}
