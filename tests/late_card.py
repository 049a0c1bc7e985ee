"""A stand-in for the recorded passes of a GPU, beside `fakes.py`, which does without torch."""

from dataclasses import replace

import torch
from torch import Tensor

from astuner.engine.decode_rows import DecodeRows, PassRows, Replayed
from astuner.engine.paged_attention import PagedPass
from astuner.engine.scheduler import MOST_READ_BESIDE, NO_COLUMN, Chunk
from astuner.engine.speculation import MOST_ROWS
from astuner.engine.token_chooser import TokenChooser
from astuner.engine.writer import DraftWriter
from astuner.models.logits import logits_of


class LateCard:
    """Recorded passes on a CPU: computed at once, but read by the host when the next has begun, as
    a GPU's are. For what the host does meanwhile; real ones need a GPU."""

    can_record = has_recorded = True
    layers = None

    def __init__(self, writer: DraftWriter) -> None:
        self._writer = writer
        limits, cache = writer._limits, writer._cache
        self._rows = DecodeRows(
            max(limits.max_num_seqs, MOST_ROWS) + MOST_READ_BESIDE,
            -(-limits.max_model_len // limits.page_size),
            spare_page=cache.spare_page,
            device=torch.device("cpu"),
        )
        self._chooser = TokenChooser()
        self.chosen = torch.zeros(2, max(limits.max_num_seqs, MOST_ROWS) + MOST_READ_BESIDE)
        self.num_ahead = 0
        """Tokens that were computed from one which the host did not know."""
        self.num_guessed = 0
        self.num_read = 0
        """Tokens of prompts, of each piece but the last."""
        self.pass_sizes: list[int] = []

    def run(self, wanted: PassRows, *, mode: str, is_one_off: bool = False) -> Replayed:
        drafts = wanted.drafts
        self.pass_sizes.append(len(drafts))
        rows = self._rows.place(drafts, min(len(drafts) + 1, self.chosen.shape[1]))
        assert len({*rows}) == len(drafts)
        for row, draft in zip(rows, drafts, strict=True):
            spare = [self._rows.spare_page] * (self._rows.tables.shape[1] - len(draft.pages))
            assert self._rows.tables[row].tolist() == draft.pages + spare
        self.num_ahead += sum(column != NO_COLUMN for column in wanted.columns)
        drawing = [one for one, draw in zip(drafts, wanted.draws, strict=True) if draw]
        num_guessed = len(drawing) - len({*drawing})
        self.num_guessed += num_guessed
        self.num_read += len(drafts) - len({*drafts}) - num_guessed
        ids = [
            id_ if column == NO_COLUMN else int(self.chosen[0, column])
            for id_, column in zip(wanted.ids, wanted.columns, strict=True)
        ]
        chunks = [
            Chunk(draft, position, position + 1)
            for draft, position in zip(drafts, wanted.positions, strict=True)
        ]
        hidden = self._writer._hidden_states(
            torch.tensor(ids),
            torch.tensor(wanted.positions),
            PagedPass(chunks, self._writer._cache),
        )
        logits = logits_of(self._writer._model, hidden)
        if mode == "logits":
            by_row = logits.new_zeros(len(self.chosen[0]), logits.shape[1])
            by_row[rows] = logits
            return Replayed(rows, by_row)
        temperatures = [inverse and 1 / inverse for inverse in wanted.inverse_temperatures]
        samplings = [
            replace(draft.request.sampling, temperature=temperature)
            for draft, temperature in zip(drafts, temperatures, strict=True)
        ]
        choice = self._chooser.choose(logits, samplings=samplings, draws=wanted.draws)
        self.chosen[:, rows] = torch.stack([choice.ids.float(), choice.logprobs])
        return Replayed(rows, None)

    def keep(self, chosen: Tensor) -> Tensor:
        self.chosen[:, : chosen.shape[1]] = chosen
        return self.chosen[:, : chosen.shape[1]]

    def forget(self) -> None:
        self._rows.forget()
