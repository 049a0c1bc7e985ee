"""At most so many turns of one intent, so that what everybody asks does not drown the rest.

An intent is a field of the trace's metadata, or a cluster of questions that share many words. The
clusters grow as questions come: each joins the first question of the cluster that it shares most
words with, or begins one. That is leader clustering (J. Hartigan, "Clustering Algorithms", 1975,
chapter 3), which holds one question for each cluster and sees each of the others once.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from astuner.config.sections.trace_filters import BalanceParams
from astuner.task_generation.gates.duplicates.words import words_of
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.known_task import KnownTask
from astuner.trace_tasks.step import TurnDropped
from astuner.trace_tasks.turn_ids import task_id_of


class Intents:
    """Clusters of questions, each under the number in which it came."""

    def __init__(self, similarity: float) -> None:
        """Words in common, of all words of both, from which on two questions have one intent."""
        self._similarity = similarity
        self._num_words: list[int] = []
        """Of each cluster's first question."""
        self._having: defaultdict[str, list[int]] = defaultdict(list)

    def number_of(self, question: str) -> int:
        """Of its cluster, which may be new."""
        words = frozenset(words_of(question))
        shared: Counter[int] = Counter()
        for word in words:
            shared.update(self._having.get(word, ()))
        overlaps = [
            (num / (len(words) + self._num_words[number] - num), -number)
            for number, num in shared.items()
        ]
        overlap, nearest = max(overlaps, default=(0.0, 0))
        if overlaps and overlap >= self._similarity:
            return -nearest
        self._num_words.append(len(words))
        for word in words:
            self._having[word].append(len(self._num_words) - 1)
        return len(self._num_words) - 1


class Balance:
    """The first ones of each intent are kept; tasks that are there already are counted first."""

    def __init__(self, params: BalanceParams, known: Mapping[str, KnownTask]) -> None:
        """`known` are the tasks that are there already, by their ids."""
        self._params = params
        self._intents = Intents(params.similarity)
        self._known = known
        self._num_of: Counter[str | int] = Counter()
        for task in known.values():
            self._num_of[self._intent_of_task(task)] += 1

    def __call__(self, candidate: Candidate) -> Sequence[Candidate] | TurnDropped:
        field = self._params.by
        if field is None:
            intent, found = self._intents.number_of(candidate.question), candidate
        else:
            intent = str(candidate.trace.metadata.get(field))
            found = replace(candidate, intent=intent)
        if task_id_of(candidate) in self._known:
            return [found]
        if self._num_of[intent] >= self._params.max_each:
            return TurnDropped(f"more than {self._params.max_each} of its intent")
        self._num_of[intent] += 1
        return [found]

    def _intent_of_task(self, task: KnownTask) -> str | int:
        by_words = self._params.by is None
        return self._intents.number_of(task.question) if by_words else str(task.intent)
