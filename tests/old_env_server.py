"""An environment service as older ones behave, over real HTTP, with the weaknesses that they have.

It names no version and knows no number of a step: one that is sent twice acts twice. Its world
counts: an action adds its length, and the one that says `done` ends the episode.
"""

import contextlib
import json
import threading
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TASK_IDS = ["a_1", "a_2", "b_1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One answer; None in its place breaks the connection."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


Act = Callable[[], Sent]
Fault = Callable[[Act], Sent | None]
"""What happens in place of an answer, which it may ask for: then the server has acted."""


def data(value: Any) -> Sent:
    return Sent(body=json.dumps({"success": True, "data": value}).encode())


def refused(message: str) -> Sent:
    return Sent(body=json.dumps({"success": False, "data": None, "detail": message}).encode())


def always(sent: Sent) -> Fault:
    return lambda act: sent


def acts_and_breaks(act: Act) -> None:
    act()


def breaks(act: Act) -> None:
    pass


@dataclass(slots=True)
class World:
    task_id: str
    params: dict[str, Any]
    said: list[str] = field(default_factory=list)


class OldEnvServer:
    """What it was asked, what it did, and how it shall fail."""

    def __init__(self, *, takes_ids: bool = True, tells_ids: bool = True) -> None:
        self.takes_ids, self.tells_ids = takes_ids, tells_ids
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.worlds: dict[str, World] = {}
        self.released: list[str] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.answer_headers: dict[str, str] = {}
        self.lock = threading.Lock()
        self.url = ""

    @property
    def acted(self) -> list[str]:
        """All actions, of all instances that still live."""
        return [said for world in self.worlds.values() for said in world.said]

    def routes(self) -> list[str]:
        return [route for route, _ in self.asked]

    def answer(self, route: str, body: dict[str, Any], headers: dict[str, str]) -> Sent | None:
        with self.lock:
            self.asked.append((route, body))
            self.headers.append(headers)
            fault = self.faults[route].pop(0) if self.faults[route] else None
        return fault(lambda: self._answer(route, body)) if fault else self._answer(route, body)

    def _answer(self, route: str, body: dict[str, Any]) -> Sent:
        if route == "healthz":
            return Sent(body=b'"OK"')
        try:
            return getattr(self, f"_{route}")(body)
        except Exception:  # as they do: whatever it is, with its traceback
            detail = {"detail": traceback.format_exc()}
            return Sent(body=json.dumps(detail).encode(), status=500)

    def _get_env_profile(self, body: dict[str, Any]) -> Sent:
        split = body["params"].get("split", "train")
        return data({"train": TASK_IDS, "dev": ["c_1"], "none": []}[split])

    def _create(self, body: dict[str, Any]) -> Sent:
        given = body.get("instance_id")
        instance_id = given if given and self.takes_ids else uuid.uuid4().hex
        if body["task_id"] not in [*TASK_IDS, "c_1"]:
            raise KeyError(f"task {body['task_id']} not found")
        self.worlds[instance_id] = World(body["task_id"], body["params"])
        info = {"task_id": body["task_id"]}
        state = [
            {"role": "system", "content": "You count."},
            {"role": "user", "content": f"Play {body['task_id']}."},
        ]
        told = {"instance_id": instance_id} if self.tells_ids else {}
        return data({"state": state, "info": info | told})

    def _step(self, body: dict[str, Any]) -> Sent:
        world = self.worlds[body["instance_id"]]
        said = body["messages"]["content"]
        world.said.append(said)
        seen = f"{len(world.said)} actions, {sum(map(len, world.said))} characters"
        is_over = "done" in said
        return data(
            {
                "state": [{"role": "user", "content": seen}],
                "reward": 1.0 if is_over else 0.0,
                "is_terminated": is_over,
                "info": {},
            }
        )

    def _evaluate(self, body: dict[str, Any]) -> Sent:
        said = self.worlds[body["instance_id"]].said
        return data(1.0 if "done" in said else 0.25 * (not body["params"].get("sparse")))

    def _release(self, body: dict[str, Any]) -> Sent:
        self.released.append(body["instance_id"])
        known = self.worlds.pop(body["instance_id"], None)
        return data(None) if known else refused("instance not found")


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no news."""


@contextlib.contextmanager
def old_env_server(**options: Any) -> Iterator[OldEnvServer]:
    server = OldEnvServer(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send(server.answer(self.path.strip("/"), {}, dict(self.headers)))

        def do_POST(self) -> None:
            read = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(server.answer(self.path.strip("/"), json.loads(read), dict(self.headers)))

        def _send(self, sent: Sent | None) -> None:
            if sent is None:
                self.close_connection = True
                return
            self.send_response(sent.status)
            named = {"Content-Type": sent.kind, "Content-Length": str(len(sent.body))}
            for name, value in (named | server.answer_headers | sent.headers).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(sent.body)

        def log_message(self, *_: object) -> None:
            pass

    listening = _Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
