"""Accepts connections as long as there are places, and waits quietly when there are none.

asyncio's own way accepts without a bound, and logs a line for each try that finds no free file.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

from astuner.serving.limits import max_open_files
from astuner.serving.places import Places
from astuner.serving.seldom_log import SeldomLog

_AT_ONCE = 16
"""Then what was accepted is read from, so that nobody gives up a place unheard."""
_PAUSE_SECONDS = 0.25
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Reception:
    """Of one listening socket, which stays its owner's."""

    def __init__(
        self,
        listening: socket.socket,
        places: Places,
        make_protocol: Callable[[], asyncio.Protocol],
        log: SeldomLog,
        *,
        name: str,
    ) -> None:
        """`name` is what the log calls the server."""
        self._listening = listening
        self._places = places
        self._make_protocol = make_protocol
        self._log = log
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._listening.setblocking(False)
        self._places.on_free = self._end_pause
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        self._places.on_free = lambda: None
        if self._pause is None:
            self._loop.remove_reader(self._listening)
        else:
            self._pause.cancel()

    def _accept(self) -> None:
        num_free = self._places.num_free or self._make_room()
        if not num_free:
            self._begin_pause()
        for _ in range(min(num_free, _AT_ONCE)):
            try:
                client, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._tell_of(error)
                self._places.show_one_out(now=self._loop.time())
                self._begin_pause()
                return
            self._places.take()
            joining = self._loop.create_task(self._join(client))
            self._joining.add(joining)
            joining.add_done_callback(self._joining.discard)

    def _make_room(self) -> int:
        """Returns how many more may come in."""
        self._log.warn(
            "full",
            "%s full connections=%d: those that show no key make room for others, and what is left "
            "waits; half of the open files that this process may have (ulimit -n, now %d) are for "
            "connections",
            *(self._name, self._places.num_places, max_open_files()),
        )
        return int(self._places.show_one_out(now=self._loop.time()))

    def _tell_of(self, error: OSError) -> None:
        self._log.warn(
            "files",
            "%s accepts no connection for now: %s; its clients wait; allow this process more open "
            "files (ulimit -n, now %d)",
            *(self._name, error.strerror, max_open_files()),
        )

    async def _join(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            await self._loop.connect_accepted_socket(self._make_protocol, client)
        except OSError:  # it has gone already
            client.close()
            self._places.free()

    def _begin_pause(self) -> None:
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(_PAUSE_SECONDS, self._end_pause)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._loop.add_reader(self._listening, self._accept)
