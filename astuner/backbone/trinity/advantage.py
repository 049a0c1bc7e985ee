"""Our advantages in Trinity's pipeline: the hub says what a step trains on, and how much."""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

from collections.abc import Sequence
from typing import Any

from trinity.algorithm.advantage_fn import AdvantageFn
from trinity.buffer.operators.experience_operator import ExperienceOperatorV1
from trinity.common.experience import Experience

from astuner.backbone.cluster.remote import find_hub
from astuner.backbone.trinity.experiences import STEP, planned_batch
from astuner.errors import AstunerError


class HubAdvantage(AdvantageFn, ExperienceOperatorV1):
    """Turns what one step's episodes gave into the batch that is trained.

    Groups without spread, episodes without a companion and sequences beyond
    rollout.multi_turn.max_sample_per_task are left out, as on `local`.
    """

    def __init__(self, multiple_of: int) -> None:
        """`multiple_of`: experiences of one update, of which each step gets a whole number."""
        self._multiple_of = multiple_of
        self._hub = find_hub()

    async def process(
        self, exps: Sequence[Experience]
    ) -> tuple[list[Experience], dict[str, float]]:
        """`exps` are all of one step."""
        if not exps:
            return [], {}
        step = exps[0].info[STEP]
        try:
            plan = await self._hub.plan_of_what_is_there.remote(step)
            batch = planned_batch(exps, plan, step=step, multiple_of=self._multiple_of)
        except AstunerError as error:
            await self._hub.fail.remote(error)
            raise
        return batch, {"planned": float(len(plan.samples))}

    def __call__(self, exps: Any, **_options: Any) -> Any:
        raise NotImplementedError("the advantages are computed in the pipeline, not in the trainer")

    @classmethod
    def compute_in_trainer(cls) -> bool:
        return False

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        return {"multiple_of": 1}
