"""Do sampling and training see the same weights, and does an update reach what is sampled?

Samples a few replies, scores the same tokens as training does, makes one optimizer step that
rewards them, and samples again. The weights are changed by that, and are to be thrown away.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from astuner.backbone.assemble import find_model
from astuner.backbone.run import Run
from astuner.engine.protocol import Sampling, TrainedEngine
from astuner.errors import BackboneError
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.inference.template import ChatTemplate
from astuner.trajectory.samples import TrainSample
from astuner.types import Task

if TYPE_CHECKING:
    from astuner.backbone.local.serve import LoadedEngine
    from astuner.backbone.local.tuned_model import TunedModel

_SAY = Remarks("model")
NUM_REPLIES = 4
_MAX_NEW_TOKENS = 32
_FULL_LR, _ADAPTER_LR = 1e-5, 1e-3
"""Of the one update at least: a smaller step moves no weight of bfloat16 that is not near 0."""
_ROUNDING = {"torch.float32": 1e-3, "torch.bfloat16": 0.15, "torch.float16": 0.05}
"""Nats a token between two ways of computing the same, by the type of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedUpdate:
    """What one optimizer step did."""

    gap_before: float
    """Mean distance of the engine's log-probabilities from those of training, in nats a token."""
    gap_after: float
    """The same of what the engine sampled after the step."""
    rise: float
    """Of the mean log-probability of the rewarded tokens, in nats, as training sees it."""
    learning_rate: float
    seconds: float
    """Of the step."""
    num_tokens: int
    """Of the samples of the step, prompts included."""


def load_weights(run: Run, *, trains: bool) -> "TunedModel | LoadedEngine":
    """Load the model as a run does; without `trains`, only what samples.

    Raises ConfigError or BackboneError as the run would.
    """
    if not trains:
        from astuner.backbone.local.serve import load_engine

        return load_engine(run, find_model(run))
    from astuner.backbone.local.tuned_model import load_tuned_model

    return load_tuned_model(replace(run, settings=with_visible_step(run.settings)), None)


def with_visible_step(settings: Any) -> Any:
    """With a learning rate whose first step is seen, and one update a step."""
    common = settings.trainer_common
    least = _FULL_LR if settings.model.lora.rank is None else _ADAPTER_LR
    optim = common.optim.model_copy(update={"lr": max(common.optim.lr, least), "warmup_steps": 0})
    return settings.model_copy(
        update={"trainer_common": common.model_copy(update={"optim": optim, "mini_batch_num": 1})}
    )


async def sample_replies(
    engine: TrainedEngine,
    template: ChatTemplate,
    attendance: Any,
    tasks: Sequence[Task],
    *,
    temperature: float,
    num_replies: int,
    max_new_tokens: int = _MAX_NEW_TOKENS,
) -> list[TrainSample]:
    """Replies to bare questions, the same for the same weights; each rewarded."""
    sampling = Sampling(
        temperature=temperature,
        top_p=1.0,
        top_k=-1,
        max_new_tokens=max_new_tokens,
        stop_ids=template.stop_ids,
    )
    questions = [tasks[index % len(tasks)].main_query or "Hello." for index in range(num_replies)]
    prompts = [template.prompt_ids([{"role": "user", "content": q}], ()) for q in questions]
    attendance.expect(num_replies)
    try:
        async with engine.serving():
            completions = await asyncio.gather(
                *(
                    engine.generate(ids, sampling, caller=f"doctor-{number}", index=0)
                    for number, ids in enumerate(prompts)
                )
            )
    finally:
        attendance.expect(0)
    return [
        TrainSample(
            ids=(*prompt, *completion.ids),
            mask=(False,) * len(prompt) + (True,) * len(completion.ids),
            logprobs=(0.0,) * len(prompt) + completion.logprobs,
            advantage=1.0,
            temperature=sampling.temperature,
            weight_version=completion.weight_version,
            task_id=str(number),
            episode_id=f"doctor-{number}",
        )
        for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def score_samples(model: Any, samples: Sequence[TrainSample]) -> tuple[list[float], list[float]]:
    """Of each trained token, in one order: what training thinks of it, and what the engine did."""
    import torch

    from astuner.training.packing import pack
    from astuner.training.score import score_batch

    scored: list[float] = []
    sampled: list[float] = []
    temperature_S = torch.tensor([s.temperature for s in samples], device=model.device)
    for batch in pack(samples, max_tokens=4096, device=model.device):
        logprob_N = score_batch(model, batch, temperature_S[batch.sample_N]).logprob_N
        scored += logprob_N.tolist()
        sampled += batch.sampled_logprob_N.tolist()
    return scored, sampled


def mean_gap(scored: Sequence[float], sampled: Sequence[float]) -> float:
    return statistics.fmean(abs(a - b) for a, b in zip(scored, sampled, strict=True))


def make_update(
    loaded: "TunedModel", samples: Sequence[TrainSample], stop: threading.Event
) -> tuple[float, float]:
    """One step that rewards `samples`: the rise of their mean log-probability in nats, and the
    seconds of the step. Set, `stop` ends it between two micro-batches."""

    def check(_done: int, _total: int) -> None:
        if stop.is_set():
            raise BackboneError("the update was stopped")

    model = loaded.policy.model
    before, _ = score_samples(model, samples)
    started = time.monotonic()
    loaded.trainer.train_step(samples, on_progress=check)
    seconds = time.monotonic() - started
    after, _ = score_samples(model, samples)
    return statistics.fmean(after) - statistics.fmean(before), seconds


def judge_agreement(gap: float, *, dtype: str, limit: float) -> DoctorFinding:
    """Of the engine with the trainer, on the same tokens and weights; `limit` stops a run."""
    rounding = _ROUNDING.get(dtype, 0.15)
    kind = dtype.removeprefix("torch.")
    text = f"sampling and training are {gap:.2g} nats a token apart in {kind}"
    if not gap <= limit:  # NaN too
        return _SAY.wrong(
            "log-probabilities",
            f"{text}; trainer_common.detectors.max_logprob_gap stops a run at {limit:g}",
            "model.dtype: float32, or rollout.name: transformers",
        )
    if gap > rounding:
        return _SAY.warning(
            "log-probabilities",
            f"{text}, more than rounding",
            "model.dtype: float32 shows whether it is the type",
        )
    return _SAY.fine("log-probabilities", text)


def judge_update(tried: TriedUpdate, *, is_adapter: bool, dtype: str) -> list[DoctorFinding]:
    """Whether what was rewarded became likelier, and the engine samples the new weights."""
    what = "the adapter" if is_adapter else "all weights"
    step = f"one update of {what} at a learning rate of {tried.learning_rate:g}"
    if not tried.rise > 0:
        return [
            _SAY.wrong(
                "update",
                f"{step} made what it rewarded less likely, by {-tried.rise:.2g} nats a token",
                "trainer_common.algorithm.policy_loss: ppo_clip, and a lower optim.lr",
            )
        ]
    findings = [
        _SAY.fine(
            "update", f"{step} makes what it rewards likelier by {tried.rise:.2g} nats a token"
        )
    ]
    most = max(3 * tried.gap_before, _ROUNDING.get(dtype, 0.15))
    if not tried.gap_after <= most:
        findings.append(
            _SAY.wrong(
                "update",
                f"after it the engine samples {tried.gap_after:.2g} nats a token away from the "
                f"trained weights ({tried.gap_before:.2g} before): it does not have them",
                "rollout.name: transformers",
            )
        )
    else:
        findings.append(
            _SAY.fine(
                "sampled weights",
                f"after it the engine samples the new weights ({tried.gap_after:.2g} nats a token "
                "apart)",
            )
        )
    return findings
