"""From episodes to Trinity's experiences, and from a plan to the batch that is trained.

An experience is one trained sequence, cut before its first trained token. Those that come from an
episode carry no advantage yet; where they stand in their step is in `info`.
"""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

from collections.abc import Sequence

import torch
from trinity.common.experience import EID, Experience

from astuner.backbone.cluster.messages import StepPlan
from astuner.backbone.cluster.rows import Row, RowKey, make_rows
from astuner.errors import BackboneError
from astuner.trajectory.episode import Episode

STEP, GROUP, ATTEMPT, SEQUENCE = "astuner_step", "group", "attempt", "sequence"
"""Where in `info` stand the step, the group's name there, the episode's attempt, and the index
among its trained sequences."""
BATCH_SIZE = "astuner_batch_size"
"""In `info` of each experience that is trained: how many the step has with it."""


def to_experiences(episode: Episode, *, group: str) -> list[Experience]:
    """One for each trained sequence, in order; none of an episode that failed."""
    return [
        _experience(episode, row, group=group, sequence=index)
        for index, row in enumerate(make_rows(episode))
    ]


def _experience(episode: Episode, row: Row, *, group: str, sequence: int) -> Experience:
    assert episode.verdict is not None
    is_first = sequence == 0
    return Experience(
        eid=EID(run=episode.attempt, step=sequence),
        tokens=[*row.prompt_ids, *row.response_ids],
        prompt_length=len(row.prompt_ids),
        logprobs=row.response_logprobs,
        action_mask=[bool(value) for value in row.response_mask],
        reward=episode.verdict.reward,
        metrics=episode_metrics(episode) if is_first else None,
        info={
            STEP: episode.step,
            GROUP: group,
            ATTEMPT: episode.attempt,
            SEQUENCE: sequence,
            "episode_id": episode.episode_id,
            "weight_version": row.min_version,
        },
    )


def episode_metrics(episode: Episode) -> dict[str, float]:
    """What Trinity's own metrics are made of."""
    assert episode.verdict is not None
    return {
        "reward": episode.verdict.reward,
        "success": float(episode.verdict.is_success),
        "calls": float(len(episode.calls)),
    }


def filler(*, step: int, metrics: dict[str, float] | None = None) -> Experience:
    """An experience with nothing to train, where Trinity demands one; it counts in no mean."""
    return Experience(
        tokens=[0, 0],
        prompt_length=1,
        logprobs=[0.0],
        action_mask=[False],
        reward=0.0,
        metrics=metrics,
        info={STEP: step},
    )


def planned_batch(
    experiences: Sequence[Experience], plan: StepPlan, *, step: int, multiple_of: int
) -> list[Experience]:
    """What the step trains on: the plan's sequences with their advantages.

    Filled up to a multiple of `multiple_of`, since Trinity's updates have one size, and never
    empty. Raises BackboneError where the experiences lack one of the plan.
    """
    found = {_key(e): e for e in experiences if GROUP in e.info}
    batch = []
    for sample in plan.samples:
        experience = found.get(sample.key)
        if experience is None:
            raise BackboneError(
                f"step {step}: Trinity lost sequence {sample.key.sequence} of attempt "
                f"{sample.key.attempt} at task {sample.key.group}; see the explorer's log"
            )
        assert experience.action_mask is not None
        experience.advantages = experience.action_mask * 0.0
        num_tokens, values = zip(*sample.advantages, strict=True)
        experience.advantages[experience.action_mask.bool()] = sample.weight * torch.tensor(
            values
        ).repeat_interleave(torch.tensor(num_tokens))
        experience.returns = experience.advantages.clone()
        batch.append(experience)
    batch += _fillers(len(batch), step=step, multiple_of=multiple_of)
    for experience in batch:
        experience.info[BATCH_SIZE] = len(batch)
    return batch


def _key(experience: Experience) -> RowKey:
    info = experience.info
    return RowKey(info[GROUP], info[ATTEMPT], info[SEQUENCE])


def _fillers(num_samples: int, *, step: int, multiple_of: int) -> list[Experience]:
    missing = -num_samples % multiple_of if num_samples else multiple_of
    fillers = [filler(step=step) for _ in range(missing)]
    for one in fillers:
        assert one.action_mask is not None
        one.advantages = one.action_mask * 0.0
        one.returns = one.advantages.clone()
        # Trinity names the weights that sampled each experience.
        one.info |= {"model_version": 0, "use_count": 0}
        one.eid = EID(batch=step, task="filler")
    return fillers
