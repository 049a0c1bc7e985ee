"""Every setting under `astuner:` with its type, unit, range and meaning.

Holds no values: those live in `default_config/astuner_default.yaml` and in the user's file. Rules
that relate two settings are in `check.py`; which backbone uses which setting is in `usage.py`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

BackboneName = Literal["local", "debug", "verl", "trinity"]
BACKBONE_NAMES: tuple[str, ...] = get_args(BackboneName)

ReaderType = Literal[
    "jsonl_dataset_file",
    "huggingface_dat_repo",
    "env_service",
    "data_generation",
    "tracing",
    "random_dummy",
]


class Section(BaseModel):
    """A group of settings. Unknown keys and silent conversions (text to number) are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LoraSettings(Section):
    rank: PositiveInt | None = Field(description="Rank of the adapter; null: train all weights.")
    alpha: PositiveFloat | None = Field(
        description="The adapter counts alpha / rank times; null: twice the rank."
    )
    target_modules: list[str] | None = Field(
        min_length=1, description="Names of linear layers, as q_proj; null: all of the decoder."
    )
    dropout: float = Field(ge=0, lt=1, description="Of the adapter's input while training.")


class ModelSettings(Section):
    path: str | None = Field(description="The model to tune: a hub name or a folder.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        description="Type of the weights while computing; auto: bfloat16 where the hardware has it."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="Where the backbones local and debug compute; auto: the GPU if there is one."
    )
    lora: LoraSettings
    use_liger: bool | None = Field(
        description="Norms and gates by Liger's kernels on a GPU; null: where it is installed."
    )


class DataSettings(Section):
    max_prompt_length: PositiveInt = Field(description="Most tokens of an agent's first prompt.")
    max_response_length: PositiveInt = Field(
        description="Most tokens of an agent after its first prompt, over the whole episode."
    )
    train_batch_size: PositiveInt = Field(description="Tasks of one step.")
    max_validation_tasks: PositiveInt | None = Field(
        description="Most tasks of one validation; null: all."
    )


class MultiTurnSettings(Section):
    max_sample_per_task: PositiveInt = Field(
        description="Most samples kept of one episode: of each agent by turns, its longest first."
    )
    max_steps: PositiveInt = Field(
        description="Most environment steps of one episode; read by workflows."
    )
    expected_steps: PositiveInt = Field(
        description="Samples that one episode is expected to give; sizes Trinity's batch."
    )


class ValidationSamplingSettings(Section):
    temperature: NonNegativeFloat = Field(description="0 is greedy.")
    top_k: int = Field(ge=-1, description="Most likely tokens to sample from; -1: all.")
    top_p: float = Field(gt=0, le=1, description="Probability mass to sample from; 1: all.")
    do_sample: bool = Field(description="False is greedy, whatever the temperature.")
    num_repeat: PositiveInt = Field(description="Episodes of one validation task.")


class UntrainedModelSettings(Section):
    model: str | None = Field(
        description="Answers agents outside trainable_targets that have no debug_model: reference, "
        "the frozen starting weights, or a model of base_url; null: each needs a debug_model."
    )
    base_url: str | None = Field(
        description="OpenAI-compatible server that untrained agents may ask."
    )
    api_key_env: str = Field(description="Environment variable that holds its key.")


class RolloutSettings(Section):
    agentscope_workflow: str | None = Field(
        description='The workflow class or function: "pkg.mod->Name" or "path/file.py->Name".'
    )
    trainable_targets: list[str] | None = Field(
        min_length=1,
        description="Target tags of the agents that are trained, in place of the workflow's own "
        "list; null: the workflow decides, by default every agent.",
    )
    untrained_model: UntrainedModelSettings
    agentscope_disable_toolcalls: bool = Field(description="Send no tools to the model.")
    num_repeat: PositiveInt = Field(description="Episodes of one task, its group.")
    max_env_worker: PositiveInt = Field(description="Episodes that run at the same time.")
    episode_timeout_seconds: PositiveFloat = Field(
        description="An episode that takes longer has failed."
    )
    max_failed_fraction: float = Field(
        ge=0, le=1, description="Stop the run when more of a step's episodes failed."
    )
    seed: NonNegativeInt = Field(description="Seed of the sampling.")
    temperature: NonNegativeFloat = Field(description="Of training episodes; 0 is greedy.")
    top_p: float = Field(gt=0, le=1, description="Probability mass to sample from; 1: all.")
    gamma: float = Field(ge=0, le=1, description="Discount over the calls of an episode; only 1.")
    max_model_len: PositiveInt = Field(description="Most tokens in the model's context.")
    max_response_length_in_one_turn: PositiveInt = Field(
        description="Most new tokens of one model call."
    )
    max_num_seqs: PositiveInt = Field(description="Sequences that one engine samples together.")
    multi_turn: MultiTurnSettings
    compute_madness_checklist: list[Literal["nonsense", "wrong_toolcall"]] = Field(
        description="Checks for gibberish after each model call, by name."
    )
    agent_madness_termination: bool = Field(description="End the episode after a failed check.")
    agent_madness_reward: float = Field(
        description="Replaces the reward of an episode with a failed check."
    )
    val_kwargs: ValidationSamplingSettings
    name: Literal["auto", "transformers", "vllm", "sglang"] = Field(
        description="Engine; auto: on local transformers, on clusters vllm; sglang: clusters only."
    )
    gpu_memory_utilization: float = Field(
        gt=0, lt=1, description="Share of the GPU's free memory that generation may use as cache."
    )
    settle_seconds: NonNegativeFloat | None = Field(
        description="Longest wait of a forward pass for episodes that are about to call, which "
        "makes runs repeatable; null: 2 on a CPU, none on a GPU."
    )
    mode: Literal["sync", "async"] = Field(description="How that engine is driven.")
    tensor_model_parallel_size: PositiveInt = Field(description="GPUs of one engine.")
    enable_oversample: bool = Field(description="Start more episodes than are needed.")
    submit_oversample_multiplier: float = Field(ge=1, description="How many times more.")
    step_skip_action: NonNegativeInt = Field(description="Accepted from older files.")


class FileSettings(Section):
    file_path: str | None = Field(description="A jsonl file, one task a line.")


class TrainingFileSettings(Section):
    training: FileSettings


class SplitFileSettings(Section):
    training: FileSettings
    validation: FileSettings


class HuggingfaceReaderSettings(Section):
    dataset_path: str = Field(description="Folder or hub name, with the subset behind a slash.")
    training_split: str
    validation_split: str | None = Field(description="null: no validation.")
    query_column: str = Field(description="Column of the question.")
    answer_column: str | None = Field(description="Column of the reference answer.")
    id_column: str | None = Field(description="Column of the task id; null: the row's number.")


class EnvServiceReaderSettings(Section):
    env_type: str = Field(description="Name of the environment.")
    env_url: str = Field(description="Where the environment service listens.")
    env_action_preference: Literal["code", "text", "box"] = Field(description="Form of an action.")
    training_split: str
    validation_split: str | None = Field(description="null: no validation.")


class RandomDummyReaderSettings(Section):
    num_tasks: PositiveInt = Field(description="Tasks to make up.")


class DocumentReaderSettings(Section):
    document_path: list[str] = Field(description="Source documents.")
    languages: list[str] = Field(description="Languages of scanned text, three letters each.")
    chunk_size: PositiveInt = Field(description="Characters of one piece of a document.")
    split_by: str = Field(description="Unit that pieces end at.")
    cache_enabled: bool = Field(description="Keep parsed documents on disk.")


class QueryReaderSettings(Section):
    type: ReaderType = Field(description="Where the seed questions come from.")
    jsonl_dataset_file: TrainingFileSettings


class SamplingParamsSettings(Section):
    temperature: NonNegativeFloat


class DeduplicationParamsSettings(Section):
    similarity_threshold: float = Field(ge=0, le=1, description="Closer pairs are duplicates.")
    db_path: str = Field(description="Folder of the store of embeddings.")
    model: str = Field(description="Embedding model.")
    api_key: str | None = Field(description="null: from the environment.")
    base_url: str = Field(description="OpenAI-compatible embedding service.")


class DeduplicationSettings(Section):
    type: Literal["deduplication"]
    enabled: bool
    params: DeduplicationParamsSettings


class DataGenerationSettings(Section):
    document_reader: DocumentReaderSettings
    query_reader: QueryReaderSettings
    task_num: PositiveInt = Field(description="Tasks to make.")
    llm_model: str = Field(description="Model that writes the tasks.")
    llm_response_length: PositiveInt = Field(description="Most new tokens of one answer of it.")
    num_workers: PositiveInt = Field(description="Requests at the same time.")
    sampling_params: SamplingParamsSettings
    filter: DeduplicationSettings


class FeedbackTracingSettings(Section):
    base_url: str | None = Field(description="Database file that holds the traces.")
    train_output_path: str | None = Field(description="Where the jsonl of tasks is written.")
    alien_llm_model: str = Field(description="Auxiliary model that judges the traces.")
    alien_llm_response_length: PositiveInt = Field(description="Most new tokens of its answer.")
    filters: list[dict[str, Any]] = Field(
        description="Each {type, enabled, params}; type llm_evaluate or deduplication."
    )


class TaskReaderSettings(Section):
    type: ReaderType = Field(description="The section below that is read.")
    jsonl_dataset_file: SplitFileSettings
    huggingface_dat_repo: HuggingfaceReaderSettings
    env_service: EnvServiceReaderSettings
    random_dummy: RandomDummyReaderSettings
    data_generation: DataGenerationSettings
    feedback_tracing: FeedbackTracingSettings


class MathAnswerSettings(Section):
    accept_last_number: bool = Field(
        description="Where nothing is boxed, the last number of the text is the answer."
    )


class RubricsAutoGraderSettings(Section):
    model_name: str = Field(description="Model that grades.")
    grader_mode: Literal["pointwise", "listwise"]
    language: Literal["en", "zh"]
    query_specific_generate_number: PositiveInt = Field(description="Rubrics of one question.")
    enable_categorization: bool = Field(description="Group the rubrics.")
    categories_number: PositiveInt = Field(description="Groups of rubrics.")
    grader_name: str
    query_field: str = Field(description="Field of the question.")
    answer_field: str = Field(description="Field of the answer to grade.")
    reference_field: str = Field(description="Field of the reference answer.")
    custom_evaluation_prompt: Any = Field(description="Text or mapping; null: the built-in one.")
    input_data_type: ReaderType = Field(description="Where the labelled examples come from.")
    jsonl_dataset_file: TrainingFileSettings
    min_score: float
    max_score: float
    success_threshold: float = Field(description="A grade from here on is a success.")
    sampling_mode: str = Field(description="Accepted from older files.")
    generate_number: PositiveInt = Field(description="Accepted from older files.")
    aggregation_mode: str = Field(description="Accepted from older files.")
    num_reference_samples: PositiveInt = Field(description="Accepted from older files.")
    max_retries: NonNegativeInt = Field(description="Further tries of a failed request.")
    max_epochs: PositiveInt = Field(description="Rounds of revision of one rubric.")
    batch_size: PositiveInt = Field(description="Examples of one iteration.")
    mcr_batch_size: PositiveInt = Field(description="Rubrics chosen in one iteration.")
    min_increment_threshold: NonNegativeFloat = Field(description="Smaller gains do not count.")
    patience: PositiveInt = Field(description="Iterations without a gain before stopping.")
    max_iterations: PositiveInt
    max_total_rubrics: PositiveInt


class TaskJudgeSettings(Section):
    judge_type: Literal["customized_protocol", "rubrics_auto_grader"]
    judge_protocol: str | None = Field(
        description='The judge class, "pkg.mod->Name"; null: workflows give every reward.'
    )
    judge_timeout_seconds: PositiveFloat = Field(description="A judge that takes longer failed.")
    math_answer: MathAnswerSettings
    alien_llm_model: str = Field(description="Auxiliary model of judges that ask one.")
    alien_llm_response_length: PositiveInt = Field(description="Most new tokens of its answer.")
    rubrics_auto_grader: RubricsAutoGraderSettings


class DebugSettings(Section):
    debug_first_n_tasks: PositiveInt = Field(description="Tasks to run.")
    debug_max_parallel: PositiveInt = Field(description="Episodes that run at the same time.")
    openai_base_url: str | None = Field(
        description="Talk to this OpenAI-compatible server; null: load model.path."
    )
    openai_model: str | None = Field(description="Model to ask there; null: model.path.")
    openai_api_key_env: str = Field(description="Environment variable that holds the key.")
    debug_vllm_port: PositiveInt = Field(description="Accepted from older files.")
    debug_vllm_seed: NonNegativeInt = Field(description="Accepted from older files.")
    debug_tensor_parallel_size: PositiveInt = Field(description="Accepted from older files.")


ADVANTAGE_NAMES = (
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)
POLICY_LOSS_NAMES = ("ppo_clip", "gspo", "cispo", "reinforce")


def _named_or_path(names: tuple[str, ...]) -> AfterValidator:
    """A name of a table, or the user's own function as "module->function"."""

    def check(value: str) -> str:
        if value not in names and "->" not in value:
            raise ValueError(
                f"expected {', '.join(names)}, or a function of your own as module->function"
            )
        return value

    return AfterValidator(check)


class AlgorithmSettings(Section):
    adv_estimator: Annotated[str, _named_or_path(ADVANTAGE_NAMES)] = Field(
        description="How rewards become advantages: a name, or your own module->function."
    )
    policy_loss: Annotated[str, _named_or_path(POLICY_LOSS_NAMES)] = Field(
        description="The loss of a token: a name, or your own module->function."
    )
    clip_ratio_low: float = Field(ge=0, lt=1, description="The ratio is clipped below 1 - this.")
    clip_ratio_high: NonNegativeFloat = Field(description="The ratio is clipped above 1 + this.")
    loss_agg_mode: Literal[
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = Field(description="How the losses of tokens become one number.")
    loss_unit: Literal["episode", "sequence"] = Field(
        description="What counts as one in a mean over sequences: a whole episode, or each of its "
        "sequences."
    )
    rollout_importance_weight: Literal["truncated", "masked"] | None = Field(
        description="Correct for the gap between sampler and trainer; null: the clipped ratio does."
    )
    rollout_importance_bound: float = Field(ge=1, description="Largest such weight.")
    use_kl_in_reward: bool = Field(
        description="Subtract kl_loss_coef times the divergence of an episode from its reward."
    )
    overlong_buffer_length: PositiveInt | None = Field(
        description="Last tokens of data.max_response_length in which a penalty grows; null: none."
    )
    overlong_penalty_factor: NonNegativeFloat = Field(description="The largest such penalty.")
    dynamic_sampling_max_batches: NonNegativeInt = Field(
        description="Further batches that may be rolled out to replace groups without spread."
    )
    task_norm_patch: bool = Field(description="Accepted from older files.")


class OptimSettings(Section):
    lr: PositiveFloat = Field(description="Learning rate.")
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt = Field(description="Updates with a rising learning rate.")
    grad_clip: PositiveFloat = Field(description="Largest norm of the gradient.")


class DetectorSettings(Section):
    not_finite: Literal["stop", "warn", "off"] = Field(
        description="A loss, gradient or weight is not a finite number."
    )
    logprob_gap: Literal["stop", "warn", "off"] = Field(
        description="Sampler and trainer disagree by more than max_logprob_gap."
    )
    no_spread: Literal["stop", "warn", "off"] = Field(
        description="No group had two different rewards for no_spread_steps steps."
    )
    all_failed: Literal["stop", "warn", "off"] = Field(
        description="All episodes of two steps in a row failed."
    )
    entropy: Literal["stop", "warn", "off"] = Field(
        description="Answers hardly vary any more; never stops."
    )
    memory: Literal["stop", "warn", "off"] = Field(
        description="Before the model is loaded: the run is estimated to need more than is free."
    )
    no_spread_steps: PositiveInt = Field(description="See no_spread.")
    max_logprob_gap: PositiveFloat = Field(description="Nats a token, mean of a step.")


LOGGER_NAMES = ("console", "tensorboard", "wandb", "swanlab", "mlflow", "trackio")


def _known_loggers(value: str | list[str]) -> str | list[str]:
    for name in [value] if isinstance(value, str) else value:
        if name not in LOGGER_NAMES:
            raise ValueError(f"{name} is not one of {', '.join(LOGGER_NAMES)}")
    return value


class GatewaySettings(Section):
    host: str = Field(
        min_length=1,
        description="Address that the gateway listens on; 0.0.0.0: all of the machine.",
    )
    advertised_host: str | None = Field(
        min_length=1,
        description="Host by which agents reach it; null: host, or where that is 0.0.0.0 the "
        "machine's own address.",
    )
    port: int = Field(ge=0, le=65535, description="0: any that is free.")
    max_body_bytes: PositiveInt = Field(description="Longest body of one call.")
    max_waiting_calls: PositiveInt = Field(description="Calls that may wait at the same time.")
    client_sampling: Literal["refuse", "replace"] = Field(
        description="What becomes of a call that asks for another temperature, top_p or top_k than "
        "the run's: an error, or an answer with the run's own."
    )


class LlmSettings(Section):
    base_url: str | None = Field(
        min_length=1,
        description="OpenAI-compatible server that judges and other helpers ask; null: DashScope "
        "where DASHSCOPE_API_KEY is set in the environment.",
    )
    model: str | None = Field(
        min_length=1,
        description="Model to ask there, by every use that the file names no model of its own for; "
        "null: each use asks its own.",
    )
    api_key_env: str = Field(
        min_length=1, description="Environment variable that holds the key of base_url."
    )
    max_parallel: PositiveInt = Field(
        description="Requests at the same time; fewer for a while after the server refused some."
    )
    timeout_seconds: PositiveFloat = Field(
        description="A question without an answer by then has failed, further tries included."
    )
    max_calls: PositiveInt | None = Field(
        description="Requests after which the run ends, further tries included; null: no limit."
    )
    max_tokens: PositiveInt | None = Field(
        description="Tokens, of questions and answers together, after which the run ends; null: no "
        "limit."
    )
    cache_dir: str | None = Field(
        min_length=1,
        description="Folder of answers, which an equal question gets again; null: none is kept.",
    )


class FsdpSettings(Section):
    param_offload: bool | None = Field(
        description="Keep idle weights in host memory, on local the float32 ones of the optimizer; "
        "null: on local where the run does not fit otherwise, on a cluster yes."
    )
    optimizer_offload: bool | None = Field(description="The same for the optimizer's moments.")


class TrainerSettings(Section):
    total_epochs: PositiveInt = Field(description="Passes over the training tasks.")
    total_training_steps: PositiveInt | None = Field(
        description="Stop after so many steps; null: after total_epochs."
    )
    val_before_train: bool = Field(description="Validate once before the first step.")
    val_pass_n: PositiveInt = Field(description="Episodes of one validation task.")
    test_freq: PositiveInt = Field(description="Steps between validations.")
    save_freq: PositiveInt = Field(description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt | None = Field(
        description="Newest checkpoints to keep, beside the best by validation; null: all."
    )
    save_merged: bool = Field(
        description="With LoRA, write the merged model into each checkpoint too."
    )
    seed: NonNegativeInt = Field(description="Seed of the order of tasks and of new weights.")
    mini_batch_num: PositiveInt = Field(description="Updates of one step.")
    max_token_len_per_gpu: PositiveInt | None = Field(
        description="Most tokens of one training pass; null: rollout.max_model_len."
    )
    enable_gradient_checkpointing: bool = Field(
        description="Compute layers again in the backward pass: less memory, about 1.3 times the "
        "time."
    )
    algorithm: AlgorithmSettings
    optim: OptimSettings
    use_kl_loss: bool = Field(description="Add the divergence from the initial model to the loss.")
    kl_loss_coef: NonNegativeFloat
    kl_loss_type: Literal["k1", "k2", "k3", "low_var_kl"] = Field(
        description="Estimator of the divergence; low_var_kl is verl's name of k3."
    )
    detectors: DetectorSettings
    logger: Annotated[str | list[str], AfterValidator(_known_loggers)] = Field(
        description="Where metrics are shown beside the run folder: one or several of console, "
        "tensorboard, wandb, swanlab, mlflow, trackio."
    )
    nnodes: PositiveInt = Field(description="Machines of the cluster.")
    n_gpus_per_node: PositiveInt | None = Field(
        description="GPUs of each machine; null: as many as the one of the command has."
    )
    trinity_only__n_vllm_engine: PositiveInt = Field(description="Engines of Trinity-RFT.")
    ulysses_sequence_parallel_size: PositiveInt = Field(description="GPUs that share a sequence.")
    fsdp_config: FsdpSettings
    checkpoint_base_dir: str = Field(description="Folder of a clustered backbone's checkpoints.")
    phase_timeout_seconds: PositiveFloat = Field(
        description="A clustered run ends when a phase, such as loading the model or an update, "
        "gives no sign of life for so long."
    )
    save_trajectory_as_json_file: bool = Field(description="Accepted from newer files.")


class TimelineMergingSettings(Section):
    timeline_compare_level: Literal["text", "token"] = Field(
        description="token: a call continues an earlier one whose messages it repeats; text: also "
        "one whose text its prompt begins with, and the drift is counted."
    )
    ignore_tools: bool = Field(
        description="Calls with other tools may continue each other where the prompt stays the "
        "same; false: never."
    )


class ContextTrackerSettings(Section):
    timeline_merging_policy: TimelineMergingSettings
    fix_retokenization_drift: bool = Field(description="Accepted from newer files.")
    log_tool_format_check: bool = Field(description="Accepted from newer files.")
    log_tool_format_error_detail: bool = Field(description="Accepted from newer files.")
    detect_timeline_snap: bool = Field(
        description="Log each place where a call could not continue an earlier one, and why."
    )
    context_tracker_type: str = Field(description="Accepted from older files.")
    max_env_len: PositiveInt = Field(description="Accepted from older files.")
    alien_llm_model: str = Field(description="Accepted from older files.")
    alien_llm_response_length: PositiveInt = Field(description="Accepted from older files.")


class InterchangeServerSettings(Section):
    interchange_method: Literal["ipc", "tcp"] = Field(description="Accepted from newer files.")
    interchange_server_port: int | Literal["auto"] = Field(description="Accepted from newer files.")
    num_fastapi_process: PositiveInt = Field(description="Accepted from newer files.")
    max_fastapi_threads: PositiveInt = Field(description="Accepted from newer files.")
    max_inference_tracker_threads: PositiveInt = Field(description="Accepted from newer files.")


class TaskRunnerSettings(Section):
    llm_infer_submit_method: Literal["sync", "async"] = Field(
        description="Accepted from newer files."
    )
    wrapper_type: Literal["asyncio-with-gc", "asyncio", "multi-processing"] = Field(
        description="Accepted from newer files."
    )
    wrapper_multiprocessing_timeout: PositiveFloat = Field(description="Accepted from newer files.")


class Settings(Section):
    """All of `astuner:`."""

    project_name: str = Field(description="Name of the project in records and loggers.")
    experiment_name: str = Field(
        description="Folder of the runs; read_yaml_name: the name of the YAML file."
    )
    experiment_dir: str = Field(
        description="Folder that holds the folders of runs; auto: launcher_record."
    )
    backbone: BackboneName = Field(description="What trains; the flag --backbone wins.")
    model: ModelSettings
    data: DataSettings
    rollout: RolloutSettings
    task_reader: TaskReaderSettings
    task_judge: TaskJudgeSettings
    gateway: GatewaySettings
    llm: LlmSettings
    debug: DebugSettings
    trainer_common: TrainerSettings
    context_tracker: ContextTrackerSettings
    enable_experimental_interchange_server: bool = Field(description="Accepted from newer files.")
    interchange_server: InterchangeServerSettings
    task_runner: TaskRunnerSettings
    execute_test: bool = Field(description="Accepted from older files.")
    execute_testing_lambda: str = Field(description="Accepted from older files.")


def setting_keys() -> tuple[str, ...]:
    """Every setting as "astuner.section.key", sections left out, in the order of this file."""
    return tuple(key for key, section in _walk(Settings, "astuner") if section is None)


def section_keys() -> tuple[str, ...]:
    """Every section as "astuner.section", from the outermost, "astuner" itself first."""
    return ("astuner", *(key for key, section in _walk(Settings, "astuner") if section))


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, type[Section] | None]]:
    for name, field in section.model_fields.items():
        key = f"{prefix}.{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield key, inner
            yield from _walk(inner, key)
        else:
            yield key, None
