"""How many passes a GPU is given at once, so that it does not wait for the host between them.

What the host does for a pass grows with the drafts, and with small models takes longer than the
pass itself. Several passes begun at once share it (multi-step scheduling, as servers of language
models call it); in return ends are seen later, and new requests come in later.
"""


class Pace:
    """More at once where the GPU ran out of passes, fewer where it does not."""

    MOST = 4
    """More share little more, and each costs a token of every completion that has ended."""
    _PATIENCE = 32
    """Times that the GPU was still busy before fewer are tried."""

    def __init__(self) -> None:
        self.num_passes = 1
        self._num_busy = 0

    def note(self, *, ran_out: bool) -> None:
        """Whether the GPU had done all that it was given when the next passes were to begin."""
        if ran_out:
            self.num_passes = min(2 * self.num_passes, self.MOST)
            self._num_busy = 0
            return
        self._num_busy += 1
        if self._num_busy == self._PATIENCE:
            self.num_passes = max(1, self.num_passes // 2)
            self._num_busy = 0
