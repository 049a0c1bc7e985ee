"""From astuner's settings to the local trainer's: one line each."""

from astuner.backbone.local.optimizer import OptimizerSettings
from astuner.backbone.local.trainer import TrainerSettings
from astuner.config.schema import Settings


def trainer_settings(settings: Settings) -> TrainerSettings:
    common = settings.trainer_common
    return TrainerSettings(
        optimizer=OptimizerSettings(
            learning_rate=common.optim.lr,
            warmup_updates=common.optim.warmup_steps,
            weight_decay=common.optim.weight_decay,
            max_grad_norm=common.optim.grad_clip,
        ),
        mini_batch_num=common.mini_batch_num,
        max_token_len_per_gpu=common.max_token_len_per_gpu or settings.rollout.max_model_len,
        policy_loss="ppo_clip",
        loss_aggregation=common.algorithm.loss_agg_mode,
        clip_low=common.algorithm.clip_ratio_low,
        clip_high=common.algorithm.clip_ratio_high,
        use_kl_loss=common.use_kl_loss,
        kl_loss_coef=common.kl_loss_coef,
        kl_loss_type=common.kl_loss_type,
        gradient_checkpointing=common.enable_gradient_checkpointing,
    )
