"""A world served by the real package of the Open Reward Standard. Run as a process; says its port
on a line."""

import socket
import sys

import uvicorn
from ors import Environment, Server, Split, TextBlock, ToolOutput, tool
from pydantic import BaseModel


class Answer(BaseModel):
    answer: int


class Sums(Environment):
    """A sum is to be handed in."""

    @classmethod
    def list_splits(cls):
        return ["train", Split(name="hard", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"a": number, "b": 3} for number in range(4)]

    def get_prompt(self):
        return [TextBlock(text=f"What is {self.task_spec['a']} + {self.task_spec['b']}?")]

    @tool
    def submit(self, given: Answer) -> ToolOutput:
        """Hand in the answer."""
        if given.answer < 0:
            raise RuntimeError("the world broke")
        is_right = given.answer == self.task_spec["a"] + self.task_spec["b"]
        text = "right" if is_right else "\u2028 wrong"
        blocks = [TextBlock(text=text)]
        return ToolOutput(blocks=blocks, reward=float(is_right), finished=is_right)


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(Server([Sums]).app, log_level="error")
    uvicorn.Server(config).run(sockets=[listening])
