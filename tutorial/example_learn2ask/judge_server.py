"""Stands for the judging model where there is none: it answers by the words of complaints.py.

    python -m tutorial.example_learn2ask.judge_server

It reads no language and can be fooled by any sentence with the right words: it is there to try the
tutorial on a laptop, and for nothing else. It speaks as much of OpenAI's API as the judge asks for.
"""

import argparse
import contextlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tutorial.example_learn2ask.complaints import topic_of

PORT = 8765
_FACT = re.compile(r"^- ([^:\n]+): ", re.MULTILINE)
_FENCED = re.compile(r"^<message (\w+)>\n(.*)\n</message \1>$", re.DOTALL | re.MULTILINE)
_GENERAL = ("anything else", "tell me more", "what else")


def answer_to(prompt: str) -> str | None:
    """The judge's answer as JSON; None where the prompt is not the judge's."""
    found = _FENCED.search(prompt)
    if found is None:
        return None
    said = found.group(2)
    hidden = _FACT.findall(prompt[: found.start()])
    topic = topic_of(said)
    if topic in hidden:
        reason, fact, is_direct = f"It asks for: {topic}.", topic, True
    elif any(words in said.lower() for words in _GENERAL):
        reason, fact, is_direct = "It asks in general.", hidden[0], False
    else:
        reason, fact, is_direct = "It asks for nothing that is hidden.", None, False
    return json.dumps({"reason": reason, "fact": fact, "is_direct": is_direct})


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = answer_to(asked["messages"][-1]["content"])
        if text is None:
            error = {"message": "this stands for a judge, and was asked something else"}
            self._send(400, {"error": error})
            return
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        made = {"id": "rules", "object": "chat.completion", "created": 0, "model": asked["model"]}
        self._send(200, {**made, "choices": [choice]})

    def _send(self, status: int, body: dict[str, object]) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a run asks thousands of times."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """A batch's episodes end together; with 5, the usual, some would knock twice."""


def make_server(port: int) -> ThreadingHTTPServer:
    """Listens on this machine alone; port 0 is a free one."""
    return _Server(("127.0.0.1", port), _Handler)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=PORT)
    with make_server(parser.parse_args().port) as server:
        print(f"a judge by rules at http://127.0.0.1:{server.server_port}/v1; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
