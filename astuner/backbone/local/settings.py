"""From astuner's settings to the local trainer's: one line each."""

from astuner.algorithm.loss import PolicyLoss
from astuner.config.schema import Settings
from astuner.config.sections.model import LoraSettings
from astuner.models.adapter import AdapterSettings
from astuner.training.optimizer import OptimizerSettings
from astuner.training.settings import PolicyTrainerSettings


def adapter_settings(lora: LoraSettings) -> AdapterSettings | None:
    """None where all weights are trained."""
    if lora.rank is None:
        return None
    return AdapterSettings(
        rank=lora.rank,
        alpha=lora.alpha,
        target_modules=lora.target_modules,
        dropout=lora.dropout,
    )


def trainer_settings(
    settings: Settings,
    *,
    micro_batch_tokens: int,
    policy_loss: PolicyLoss | None = None,
    masters_in_host_memory: bool = False,
    moments_in_host_memory: bool = False,
) -> PolicyTrainerSettings:
    """`policy_loss` is the user's own, where the settings name one by its path."""
    common, algorithm = settings.trainer_common, settings.trainer_common.algorithm
    return PolicyTrainerSettings(
        optimizer=OptimizerSettings(
            learning_rate=common.optim.lr,
            warmup_updates=common.optim.warmup_steps,
            weight_decay=common.optim.weight_decay,
            max_grad_norm=common.optim.grad_clip,
            masters_in_host_memory=masters_in_host_memory,
            moments_in_host_memory=moments_in_host_memory,
        ),
        mini_batch_num=common.mini_batch_num,
        max_token_len_per_gpu=micro_batch_tokens,
        policy_loss=policy_loss or algorithm.policy_loss,
        loss_aggregation=algorithm.loss_agg_mode,
        max_response_tokens=settings.data.max_response_length,
        counts_by_episode=algorithm.loss_unit == "episode",
        clip_low=algorithm.clip_ratio_low,
        clip_high=algorithm.clip_ratio_high,
        importance_weight=algorithm.rollout_importance_weight,
        importance_bound=algorithm.rollout_importance_bound,
        kl_in_reward_coef=common.kl_loss_coef if algorithm.use_kl_in_reward else 0.0,
        use_kl_loss=common.use_kl_loss,
        kl_loss_coef=common.kl_loss_coef,
        kl_loss_type=common.kl_loss_type,
        gradient_checkpointing=common.enable_gradient_checkpointing,
    )
