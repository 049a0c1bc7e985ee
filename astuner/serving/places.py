"""The places that a server has for connections, and who gives theirs up when all are taken.

Whoever has not shown that they are known goes first, the one who came first of them; then, of those
that wait for nothing, the one who has waited longest. A connection whose call is under way stays.
Owns no socket.
"""

from collections.abc import Callable
from typing import Protocol


class Guest(Protocol):
    """A connection in its place."""

    def show_out(self) -> None:
        """End the connection; it leaves soon after."""
        ...


class Places:
    """All methods are to be called in the server's event loop."""

    def __init__(self, num_places: int, *, newcomer_seconds: float) -> None:
        """Nobody is shown out before the last thing that they did is so long ago."""
        self.num_places = num_places
        self.num_taken = 0
        self.on_free: Callable[[], None] = lambda: None
        """Called whenever a place becomes free."""
        self._newcomer_seconds = newcomer_seconds
        self._strangers: dict[Guest, float] = {}
        """With the time at which they came, in that order."""
        self._idle: dict[Guest, float] = {}
        """Those that are known and wait for nothing, since when, in that order."""

    @property
    def num_free(self) -> int:
        return max(0, self.num_places - self.num_taken)

    def take(self) -> None:
        """A connection was accepted; to be followed by `free`."""
        self.num_taken += 1

    def free(self) -> None:
        self.num_taken -= 1
        self.on_free()

    def come(self, guest: Guest, *, now: float) -> None:
        """It can be read from; nothing is known of it."""
        self._strangers[guest] = now

    def know(self, guest: Guest) -> None:
        """It has shown that it may ask."""
        self._strangers.pop(guest, None)

    def rest(self, guest: Guest, *, now: float) -> None:
        """Its request is answered."""
        if guest not in self._strangers:
            self._idle[guest] = now

    def ask(self, guest: Guest) -> None:
        """It sends a request."""
        self._idle.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        self._strangers.pop(guest, None)
        self._idle.pop(guest, None)

    def show_one_out(self, *, now: float) -> bool:
        """Whether there was one."""
        for guests in (self._strangers, self._idle):
            guest = next(iter(guests), None)
            if guest is not None and now - guests[guest] >= self._newcomer_seconds:
                del guests[guest]
                guest.show_out()
                return True
        return False
