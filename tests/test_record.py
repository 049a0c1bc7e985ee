"""An episode survives its JSON line."""

import json

from astuner.trajectory.record import episode_from_record, episode_to_record
from tests.test_rollout import _raises, run, workflow_that


def round_trip(episode):
    return episode_from_record(json.loads(json.dumps(episode_to_record(episode), allow_nan=False)))


def test_an_episode_reads_back_with_the_same_tokens_masks_and_logprobs():
    episode = run()
    again = round_trip(episode)
    assert again.sequences == episode.sequences
    assert again.verdict == episode.verdict
    assert again.calls[0].prompt_ids == episode.calls[0].prompt_ids


def test_a_failed_episode_keeps_its_reason():
    episode = run(workflow_that(_raises))
    assert round_trip(episode).failure == episode.failure


def test_what_json_cannot_hold_becomes_text():
    async def body(task, tuner):
        from astuner.types import WorkflowOutput

        return WorkflowOutput(reward=1.0, metadata={"odd": {1, 2}, "nan": float("nan")})

    record = episode_to_record(run(workflow_that(body)))
    assert record["metadata"] == {"odd": "{1, 2}", "nan": "nan"}
