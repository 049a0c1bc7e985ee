"""A stand-in for the recorded passes of a GPU, beside `fakes.py`, which does without torch."""

from dataclasses import replace

import torch
from torch import Tensor

from astuner.engine.decode_rows import DecodeRows, PassRows, Replayed
from astuner.engine.pace import Pace
from astuner.engine.paged_attention import PagedPass
from astuner.engine.scheduler import MOST_READ_BESIDE, NO_COLUMN, Chunk, Draft
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
        max_rows = max(limits.max_num_seqs, MOST_ROWS) + MOST_READ_BESIDE * Pace.MOST
        self._rows = DecodeRows(
            max_rows,
            -(-limits.max_model_len // limits.page_size),
            spare_page=cache.spare_page,
            device=torch.device("cpu"),
        )
        self._chooser = TokenChooser()
        self._chosen = torch.zeros(
            2, max(limits.max_num_seqs, MOST_ROWS) + MOST_READ_BESIDE * Pace.MOST
        )
        self.num_ahead = 0
        """Tokens that were computed from one which the host did not know."""
        self.num_behind = 0
        """Tokens of passes that were begun together with the one before."""
        self.num_guessed = 0
        self.num_read = 0
        """Tokens of prompts, of each piece but the last."""
        self.pass_sizes: list[int] = []

    def run(self, wanted: PassRows, *, mode: str, is_one_off: bool = False) -> Replayed:
        drafts = wanted.drafts
        rows = self._rows.place(drafts, min(len(drafts) + 1, self._chosen.shape[1]))
        assert len({*rows}) == len(drafts)
        for row, draft in zip(rows, drafts, strict=True):
            spare = [self._rows.spare_page] * (self._rows.tables.shape[1] - len(draft.pages))
            assert self._rows.tables[row].tolist() == draft.pages + spare
        self.num_ahead += sum(column != NO_COLUMN for column in wanted.columns)
        drawing = [one for one, draws in zip(drafts, wanted.draws, strict=True) if draws]
        num_guessed = len(drawing) - len({*drawing})
        self.num_guessed += num_guessed
        self.num_read += len(drafts) - len({*drafts}) - num_guessed
        ids = [
            id_ if column == NO_COLUMN else int(self._chosen[0, column])
            for id_, column in zip(wanted.ids, wanted.columns, strict=True)
        ]
        logits = self._pass(drafts, ids, wanted.positions)
        if mode == "logits":
            by_row = logits.new_zeros(len(self._chosen[0]), logits.shape[1])
            by_row[rows] = logits
            return Replayed(rows, self._chosen[None], by_row)
        found = [self._choose(wanted, logits, [*range(len(rows))], rows, step=0)]
        for step in range(1, max(map(len, wanted.draws))):
            going_on = [at for at, draws in enumerate(wanted.draws) if len(draws) > step]
            logits = self._pass(
                [drafts[at] for at in going_on],
                [int(self._chosen[0, rows[at]]) for at in going_on],
                [wanted.positions[at] + step for at in going_on],
            )
            found.append(self._choose(wanted, logits, going_on, rows, step=step))
        self.num_behind += sum(len(draws) - 1 for draws in wanted.draws if draws)
        return Replayed(rows, torch.stack(found), None)

    def _pass(self, drafts: list[Draft], ids: list[int], positions: list[int]) -> Tensor:
        self.pass_sizes.append(len(drafts))
        chunks = [
            Chunk(draft, position, position + 1)
            for draft, position in zip(drafts, positions, strict=True)
        ]
        hidden = self._writer._hidden_states(
            torch.tensor(ids), torch.tensor(positions), PagedPass(chunks, self._writer._cache)
        )
        return logits_of(self._writer._model, hidden)

    def _choose(
        self, wanted: PassRows, logits: Tensor, going_on: list[int], rows: list[int], *, step: int
    ) -> Tensor:
        samplings, draws = [], []
        for at in going_on:
            inverse = wanted.inverse_temperatures[at]
            samplings.append(
                replace(wanted.drafts[at].request.sampling, temperature=inverse and 1 / inverse)
            )
            draws.append(wanted.draws[at][step] if wanted.draws[at] else 0.0)
        choice = self._chooser.choose(logits, samplings=samplings, draws=draws)
        found = torch.ones_like(self._chosen)
        found[1] = torch.nan  # of rows that do not go on, something
        places = [rows[at] for at in going_on]
        found[:, places] = torch.stack([choice.ids.float(), choice.logprobs])
        self._chosen[:, places] = found[:, places]
        return found

    def keep(self, chosen: Tensor) -> None:
        self._chosen[:, : chosen.shape[1]] = chosen

    def forget(self) -> None:
        self._rows.forget()
