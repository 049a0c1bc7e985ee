"""A step on an engine that rolls out no more for it, and Trinity's metrics under our names."""

import pytest

from astuner.backbone.trinity.metrics import our_metrics, theirs
from tests.test_hub import add, failed, make_hub, planned, three


def test_a_step_is_planned_from_what_is_there():
    hub, rolled_out_again = make_hub(), make_hub()
    for one in (hub, rolled_out_again):
        add(one, "a", *three("a", [0.0, 1.0, 1.0]))
        add(one, "b", *three("b", [1.0, 0.0, 0.0]))
    assert planned(hub.plan_of_what_is_there(1)) == planned(rolled_out_again.plan(1))


def test_a_step_that_teaches_nothing_is_planned_without_samples():
    hub = make_hub()
    add(hub, "a", *three("a", [1.0, 1.0, 1.0]))
    plan = hub.plan_of_what_is_there(1)
    assert (plan.samples, plan.num_missing) == ((), 0)
    hub.finish_step(1, {"train/samples": 0.0})
    news = hub.news()
    assert news.failure is None
    assert news.steps[0]["rollout/flat_groups"] == 1


def test_failed_episodes_are_not_in_the_plan():
    hub = make_hub(rollout__max_failed_fraction=1.0)
    first, second, third = three("a", [0.0, 1.0, 1.0])
    add(hub, "a", first, failed(second), third)
    attempts = {attempt for _, attempt, _ in planned(hub.plan_of_what_is_there(1))}
    assert attempts == {0, 2}


def test_what_the_explorer_measured_stands_in_the_line_of_the_step():
    hub = make_hub()
    add(hub, "a", *three("a", [0.0, 1.0, 1.0]))
    hub.add_metrics(1, {"trinity/early": 1.0})
    hub.plan_of_what_is_there(1)
    hub.add_metrics(1, {"trinity/late": 2.0})
    hub.finish_step(1, {"train/loss": 0.5})
    metrics = hub.news().steps[0]
    assert (metrics["trinity/early"], metrics["trinity/late"]) == (1.0, 2.0)
    assert metrics["reward/mean"] == pytest.approx(2 / 3)
    assert metrics["train/loss"] == 0.5


def test_trinity_s_metrics_have_our_names_and_stand_beside_under_their_own():
    found = our_metrics({"actor/pg_loss": 0.5, "train/samples": 3.0, "note": "text"})
    assert found["train/loss"] == 0.5
    assert found["trinity/actor/pg_loss"] == 0.5
    assert found["train/samples"] == 3.0
    assert found["train/kl"] is None
    assert not any("note" in key or key == "trinity/train/samples" for key in found)


def test_what_is_a_mean_over_tokens_is_not_known_where_none_is_trained():
    told = {"actor/entropy_loss": 0.0, "actor/pg_loss": 0.0, "actor/lr": 1e-3}
    found = our_metrics({**told, "train/tokens": 0.0})
    assert (found["train/entropy"], found["train/loss"]) == (None, None)
    assert found["train/lr"] == 1e-3
    assert our_metrics({**told, "train/tokens": 5.0})["train/entropy"] == 0.0


def test_the_explorer_s_metrics_keep_their_names():
    assert theirs({"rollout/reward/mean": 0.5, "rows": []}) == {"trinity/rollout/reward/mean": 0.5}
