"""The whole way from chunks and seeds to a folder of tasks, asked for in plain values.

`generate` is the only entry; what it is given is made elsewhere, from settings.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from astuner.clock import iso_utc
from astuner.errors import BackboneError, ConfigError
from astuner.llm import LlmUsage
from astuner.task_generation.card import describe_set, set_rows, write_readme, yields_by_gate
from astuner.task_generation.draft import SIDES, Side
from astuner.task_generation.drafted import FORM_GATE
from astuner.task_generation.ledger import Ledger
from astuner.task_generation.outcome import GateYield, GenerationOutcome, GenerationProgress
from astuner.task_generation.planned import planned
from astuner.task_generation.production import Production
from astuner.task_generation.request import GenerationOptions, GenerationParts
from astuner.task_generation.set_folder import SetFolder, describe_changes, is_complete
from astuner.task_generation.settlement import PASS_RATE_GATE, PassRateBounds, Settlement
from astuner.task_generation.spending import Spending
from astuner.task_generation.split import num_wanted

__all__ = [
    "GateYield",
    "GenerationOptions",
    "GenerationOutcome",
    "GenerationParts",
    "GenerationProgress",
    "Watch",
    "describe_changes",
    "generate",
    "is_complete",
]

Watch = Callable[[GenerationProgress], None]


async def generate(
    parts: GenerationParts,
    options: GenerationOptions,
    *,
    folder: Path,
    fingerprint: Mapping[str, Any],
    card: Mapping[str, Any],
    watch: Watch,
    say: Callable[[str], None],
) -> GenerationOutcome:
    """Make the set in `folder`, or go on with it.

    `fingerprint` is all that decides whether earlier drafts may be used, by name; `card` what the
    card says beside the counts. Raises BackboneError where too many drafts fail or nothing is left,
    and whatever ends it from outside; what was paid is in the folder then.
    """
    if not parts.chunks and not parts.seeds:
        raise ConfigError(
            "making tasks: there is neither a chunk of a document nor a seed; name documents in "
            "task_reader.data_generation.document_reader, or seeds in query_reader"
        )
    files = SetFolder(folder)
    with files.in_use():
        if changes := files.begin(fingerprint):
            say(_told_changes(changes))
        generation = _Generation(parts, options, files=files, about=card, watch=watch, say=say)
        await generation.run()
        return generation.outcome


class _Generation:
    """One start, from what the folder holds to what it holds then."""

    def __init__(
        self,
        parts: GenerationParts,
        options: GenerationOptions,
        *,
        files: SetFolder,
        about: Mapping[str, Any],
        watch: Watch,
        say: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self._options = options
        self._files = files
        self._about = about
        self._watch = watch
        material, self._plan = planned(parts, options, decided=files.read_sides())
        files.write_sides(material.decided)
        has_units: list[Side] = [side for side in SIDES if self._plan.num_units(side)]
        for side in _without_units(options, has_units):
            say(
                f"no task is made for {side}: there are too few chunks or seeds, which training "
                "needs"
            )
        self._ledger = Ledger(files.ledger_file)
        if self._ledger.is_torn:
            say(f"{files.ledger_file}: its last line was cut off by a kill, and is left out")
        self._content = self._ledger.read(self._plan)
        self._spending = Spending(options)
        for usage, is_draft in self._content.usages:
            self._spending.count(usage, is_draft=is_draft)
        bounds = PassRateBounds(above=options.pass_rate_above, below=options.pass_rate_below)
        self._settlement = Settlement(
            parts.duplicates,
            wanted=num_wanted(
                options.task_num,
                validation_fraction=options.validation_fraction,
                test_fraction=options.test_fraction,
                has_units=has_units,
            ),
            bounds=bounds if parts.meter else None,
            rates=self._content.rates,
        )
        self._production = Production(
            parts,
            options,
            plan=self._plan,
            ledger=self._ledger,
            settlement=self._settlement,
            spending=self._spending,
            report=lambda production: watch(self._progress(production)),
        )
        self._say = say
        self._ended_by: str | None = None

    async def run(self) -> None:
        """Raises what ends it; the set is written before, as far as it came."""
        try:
            await self._production.run(self._content)
            self._ended_by = self._production.why_short()
            if failed := self._production.failed:
                self._say(_told_failures(failed))
        except asyncio.CancelledError:
            self._ended_by = "it was interrupted"
            raise
        except Exception as error:
            self._ended_by = str(error)
            raise
        finally:
            if self._production.is_recalled:  # else what stands there has more
                self._write()
        if not self._settlement.taken:
            raise BackboneError(
                f"making tasks: none of {self._settlement.num_settled} drafts became a task: "
                f"{self.outcome.ended_by}. {self._files.path} has every rejection with its reason"
            )

    @property
    def outcome(self) -> GenerationOutcome:
        sides = Counter(candidate.turn.side for candidate in self._settlement.taken)
        by_gate = self._by_gate()
        return GenerationOutcome(
            folder=self._files.path,
            num_wanted=max(self._options.task_num, sides.total()),
            num_training=sides["train"],
            num_validation=sides["validation"],
            num_test=sides["test"],
            num_drafts=self._settlement.num_settled + self._production.num_surplus,
            num_failed=len(self._production.failed),
            by_gate=by_gate,
            by_document=self._by_document(),
            usage=self._spending.usage,
            cost=self._spending.cost,
            ended_by=self._ended_by and f"{self._ended_by}{_told_strictest(by_gate)}",
        )

    def _progress(self, production: Production) -> GenerationProgress:
        return GenerationProgress(
            num_wanted=self._options.task_num,
            num_accepted=self._settlement.num_taken,
            num_rejected=len(self._settlement.rejected),
            num_failed=len(production.failed),
            usage=self._spending.usage,
            cost=self._spending.cost,
            is_measuring=production.is_measuring,
        )

    def _write(self) -> None:
        outcome = self.outcome
        about = {**self._about, "made": iso_utc(time.time())}
        card = describe_set(
            outcome,
            about=about,
            unread=self._parts.unread,
            num_surplus=self._production.num_surplus,
        )
        self._files.write_set(
            rows=set_rows(self._settlement),
            readme=write_readme(card, outcome.by_gate),
            card=card,
        )

    def _by_gate(self) -> list[GateYield]:
        asked = [*(gate.name for gate in self._parts.gates), self._parts.duplicates.name]
        if self._parts.meter is not None:
            asked.append(PASS_RATE_GATE)
        refused_by = {rejected.rejection.gate for rejected in self._settlement.rejected}
        by_drafter = sorted(refused_by - {FORM_GATE, *asked})
        asked = [FORM_GATE, *by_drafter, *asked]
        usage = {gate: self._spending.by_gate.get(gate, LlmUsage()) for gate in asked}
        return yields_by_gate(self._settlement, asked, usage)

    def _by_document(self) -> Mapping[str, tuple[int, int]]:
        taken = Counter(
            candidate.turn.chunk.document
            for candidate in self._settlement.taken
            if candidate.turn.chunk
        )
        drafts = Counter(
            turn.chunk.document for turn in self._settlement.settled_turns if turn.chunk
        )
        names = sorted({chunk.document for chunk in self._parts.chunks})
        return {name: (drafts[name], taken[name]) for name in names}


def _without_units(options: GenerationOptions, has_units: Collection[Side]) -> Iterator[Side]:
    fractions: Mapping[Side, float] = {
        "validation": options.validation_fraction,
        "test": options.test_fraction,
    }
    return (side for side, share in fractions.items() if share > 0 and side not in has_units)


def _told_changes(changes: list[str]) -> str:
    first = changes[:10]
    more = f"\n  … and {len(changes) - len(first)} more" if len(changes) > len(first) else ""
    listed = "".join(f"\n  {change}" for change in first)
    return f"a new set is begun, and the old one moved to earlier/, since:{listed}{more}"


def _told_failures(failed: Mapping[int, str]) -> str:
    reason, times = Counter(failed.values()).most_common(1)[0]
    return (
        f"drafts that are left out, since they got no answer: {len(failed)}; the commonest reason "
        f"(of {times}): {reason}"
    )


def _told_strictest(by_gate: list[GateYield]) -> str:
    """Which gate took most, as the end of a sentence; empty where none took any."""
    strictest = max(by_gate, key=lambda gate: gate.num_rejected)
    if strictest.num_rejected == 0:
        return ""
    return (
        f"; the gate {strictest.gate} took most, "
        f"{strictest.num_rejected} of {strictest.num_seen} drafts"
    )
