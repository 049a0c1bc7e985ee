"""Two worlds served by the real OpenEnv package. Run as a process; says its port on a line."""

import socket
import sys

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

MAX_SESSIONS = 2


class Guess(Action):
    message: str = Field(min_length=1)


class Hint(Observation):
    text: str


class NumberWorld(Environment[Guess, Hint, State]):
    """A number from 1 to 10 is to be guessed; it is the seed's."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **options):
        self._state = State(episode_id=episode_id)
        self._number = (seed or 0) % 10 + 1
        return Hint(text=f"Guess a number from 1 to {options.get('highest', 10)}.")

    def step(self, action, timeout_s=None, **options):
        self._state.step_count += 1
        if action.message == "crash":
            raise RuntimeError("the world broke")
        guess = int(action.message)
        if guess == self._number:
            return Hint(text="right", reward=1.0, done=True)
        return Hint(text="higher" if guess < self._number else "lower", reward=0.0)

    @property
    def state(self):
        return self._state


class ToolWorld(MCPEnvironment):
    """The sum of two numbers is to be handed in; a tool adds."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        server = FastMCP("adder")

        @server.tool
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        @server.tool
        def submit(answer: int) -> str:
            """Hand in the answer."""
            return "thank you"

        super().__init__(server)
        self._state = State()

    def reset(self, seed=None, episode_id=None, **options):
        return Observation(metadata={"question": "2 + 3"})

    async def step_async(self, action, timeout_s=None, **options):
        observation = await super().step_async(action, timeout_s=timeout_s, **options)
        if isinstance(action, CallToolAction) and action.tool_name == "submit":
            observation.reward = float(action.arguments.get("answer") == 5)
            observation.done = True
        return observation

    def _step_impl(self, action, timeout_s=None, **options):
        raise ValueError("only tools")

    @property
    def state(self):
        return self._state


WORLDS = {
    "numbers": (NumberWorld, Guess, Hint),
    "tools": (ToolWorld, CallToolAction, CallToolObservation),
}

if __name__ == "__main__":
    world, action, observation = WORLDS[sys.argv[1]]
    app = create_app(world, action, observation, max_concurrent_envs=MAX_SESSIONS)
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
