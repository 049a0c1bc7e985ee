"""Sees to it that a step of which every model call was refused does not pass for one that worked.

An agent may swallow what its client raises and return a reward: nothing has failed then, and
nothing can be trained. Owns no counting of single calls; the episodes have it.
"""

from collections import Counter
from collections.abc import Sequence

from astuner.errors import BackboneError
from astuner.trajectory.episode import Episode
from astuner.trajectory.refused import RefusedCall


def check_answered(episodes: Sequence[Episode], *, where: str) -> None:
    """Raises BackboneError, with the commonest refusal, where calls were refused and none of any
    episode has an answer that somebody took. `where` begins the message."""
    num_refused = sum(episode.num_refused_calls for episode in episodes)
    is_answered = any(call.is_taken for episode in episodes for call in episode.calls)
    if num_refused == 0 or is_answered:
        return
    refused: Counter[RefusedCall] = Counter()
    for episode in episodes:
        refused.update(episode.refused_calls)
    call, times = refused.most_common(1)[0]
    raise BackboneError(
        f"{where}: no model call of {len(episodes)} episodes was answered, and {num_refused} were "
        "refused or answered with nothing, so there is nothing to learn from; the "
        f"commonest refusal ({times} times): {call.line()}. Correct what the agent sends "
        "(docs/gateway.md)"
    )
