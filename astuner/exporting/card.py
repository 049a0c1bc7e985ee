"""README.md of an export: what it is, what it was made of, how it was proven, how to use it.

Written from the run's own records, which hold no secrets. What is not known is said to be so.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from astuner.config.secret import without_secrets
from astuner.errors import AstunerError
from astuner.evaluation.facts import EVALUATION_FILE, EvaluationFacts
from astuner.evaluation.read import read_evaluated
from astuner.evaluation.scores import score
from astuner.exporting.checkpoint_named import NamedCheckpoint
from astuner.exporting.format import ExportAgreement
from astuner.exporting.recorded import RecordedGap
from astuner.run_dir import RunDir, read_json_lines

CARD_NAME = "README.md"
_MAX_ROWS = 12
"""Of the curve: the first, the last and some between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """All that a card says beside what the run's records tell."""

    checkpoint: NamedCheckpoint
    to: str
    base: str | None
    agreement: ExportAgreement
    change: ExportAgreement | None
    recorded: RecordedGap | None
    usage: str
    warnings: Sequence[str]


def write_card(folder: Path, facts: CardFacts) -> None:
    (folder / CARD_NAME).write_text(card_text(facts), encoding="utf-8")


def card_text(facts: CardFacts) -> str:
    """YAML front matter as the hub reads it, then Markdown."""
    head = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---\n",
        f"# {facts.checkpoint.title}\n",
        _origin(facts),
        "## Use\n\n" + facts.usage,
        "## Training\n\n" + _table(_training(facts.checkpoint)),
        "## Validation while it was trained\n\n" + _curve(facts.checkpoint.run_dir),
        "## Evaluation\n\n" + _evaluations(facts.checkpoint),
        "## Verification\n\n" + _verification(facts),
        "## Licence\n\nNot known to astuner: that of the base model and those of the data apply.\n",
    ]
    return "\n".join(parts)


def astuner_version() -> str:
    try:
        return metadata.version("astuner")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "(no release)"


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    library = {"adapter": "peft", "gguf": "llama.cpp"}.get(facts.to, "transformers")
    head: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if facts.base is not None:
        head["base_model"] = facts.base
        head["base_model_relation"] = "adapter" if facts.to == "adapter" else "finetune"
    head["tags"] = ["astuner", "reinforcement-learning"]
    return head


def _origin(facts: CardFacts) -> str:
    step = "" if facts.checkpoint.step is None else f" at step {facts.checkpoint.step}"
    base = _code(facts.base) if facts.base else "a base that is not known"
    text = (
        f"Made by astuner {astuner_version()} from {base}"
        f"{step} of the tuning below, as `--to {facts.to}`.\n"
    )
    if facts.base is not None and Path(facts.base).is_absolute():
        text += (
            "\nThe base is named by its folder on the machine that trained. To publish, export "
            "with `--base OWNER/NAME`, the name under which others find the same weights.\n"
        )
    return text


def _training(checkpoint: NamedCheckpoint) -> Iterator[tuple[str, str]]:
    shown = without_secrets({"astuner": checkpoint.settings})["astuner"]
    if not shown:
        yield "run", "not known: the folder is no checkpoint of a run, or its run is gone"
        return

    def setting(key: str) -> Any:
        value: Any = shown
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    reader = setting("task_reader.type")
    planned = _event(checkpoint.run_dir, "planned")
    yield "data", _code(_data_name(setting(f"task_reader.{reader}")) or "not known")
    yield "read by", _code(reader)
    if planned:
        num_validation = planned.get("num_validation_tasks")
        num_test = planned.get("num_test_tasks")
        for_test = f", {num_test} to test" if num_test else ""
        yield (
            "tasks",
            f"{planned.get('num_tasks')} to train, {num_validation} to validate{for_test}",
        )
    yield "workflow", _code(setting("rollout.agentscope_workflow"))
    yield "judge", _code(setting("task_judge.judge_protocol") or "the workflow gives the reward")
    yield "backbone", _code(setting("backbone"))
    if planned:
        yield "steps", f"{checkpoint.step} of {planned.get('num_steps')}"
    num_tasks, num_repeat = setting("data.train_batch_size"), setting("rollout.num_repeat")
    yield "batch", f"{num_tasks} tasks, {num_repeat} episodes each"
    yield "learning rate", str(setting("trainer_common.optim.lr"))
    yield "advantages", _code(setting("trainer_common.algorithm.adv_estimator"))
    rank = setting("model.lora.rank")
    yield "trained", "all weights" if rank is None else f"an adapter of rank {rank} (LoRA)"
    if kwargs := setting("rollout.chat_template_kwargs"):
        yield "chat template", f"given {_code(kwargs)}, which the exported one has by itself"


def _data_name(section: Any) -> str | None:
    """The files or data sets that a reader's section names, without the machine's folders."""
    if not isinstance(section, Mapping):
        return None
    names = []
    for key in ("dataset_path", "dataset_name", "file_path"):
        if isinstance(value := section.get(key), str):
            names.append(_short(value))
    for value in section.values():
        if isinstance(value, Mapping) and (inner := _data_name(value)) is not None:
            names.append(inner)
    return ", ".join(dict.fromkeys(names)) or None


def _short(path: str) -> str:
    """Of a file its last two parts."""
    return "/".join(Path(path).parts[-2:])


def _curve(run: RunDir | None) -> str:
    rows = _validations(run)
    if not rows:
        return "None is recorded.\n"
    keys = ("success_rate", "success_rate_low", "success_rate_high", "reward_mean", "episodes")
    lines = ["| step | success | 95% | reward | episodes |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        rate, low, high, reward, episodes = (row.get(f"validation/{key}") for key in keys)
        lines.append(
            f"| {row['step']} | {_number(rate)} | {_number(low)} to {_number(high)} | "
            f"{_number(reward)} | {_number(episodes, 0)} |"
        )
    return "\n".join(lines) + (
        "\n\nThe checkpoint may have been chosen by these numbers, which makes its own look better "
        "than it is.\n"
    )


def _validations(run: RunDir | None) -> list[dict[str, Any]]:
    if run is None or not run.metrics_file.exists():
        return []
    with suppress(OSError, AstunerError):
        rows = [r for r in read_json_lines(run.metrics_file) if "validation/success_rate" in r]
        if len(rows) <= _MAX_ROWS:
            return rows
        kept = {round(i * (len(rows) - 1) / (_MAX_ROWS - 1)) for i in range(_MAX_ROWS)}
        return [row for index, row in enumerate(rows) if index in kept]
    return []


def _evaluations(checkpoint: NamedCheckpoint) -> str:
    found = list(find_evaluations(checkpoint))
    if not found:
        return (
            "None of this checkpoint was found. Tasks that training never saw tell how good it is: "
            f"`astuner evaluate --conf FILE --model {checkpoint.folder} --split test`\n"
        )
    lines = [
        "| split | tasks | attempts each | success, 95% | recorded in |",
        "| --- | --- | --- | --- | --- |",
    ]
    for folder, facts in found:
        lines.append(
            f"| {_code(_short(facts.split))} | {facts.num_tasks} | {facts.num_repeat} | "
            f"{_success(folder)} | {_code(_short(str(folder)))} |"
        )
    if any(facts.best_of for _, facts in found):
        lines.append("\nOn *validation* it is too good: the checkpoint was chosen by those tasks.")
    return "\n".join(lines) + "\n"


def _success(folder: Path) -> str:
    """Of an evaluation, in words and figures."""
    try:
        scores = score(read_evaluated(folder))
    except AstunerError:
        return "its records cannot be read"
    if scores.num_missing:
        return f"not finished, {scores.num_missing} episodes are missing"
    total = scores.total
    failed = f", {total.num_failed} failed" if total.num_failed else ""
    if total.success is None:
        return f"not known: no episode was judged{failed}"
    interval = total.success.interval
    between = "" if interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{total.success.mean:.3f}{between} of {total.success.num_tasks} tasks{failed}"


def find_evaluations(checkpoint: NamedCheckpoint) -> Iterator[tuple[Path, EvaluationFacts]]:
    """The evaluations of this checkpoint beside its run, with their folders."""
    if checkpoint.run_dir is None:
        return
    folder = checkpoint.run_dir.root.parent.parent
    # Path.glob raises where a folder is deleted while it looks.
    for path in sorted(folder / name for name in glob(f"*/*/{EVALUATION_FILE}", root_dir=folder)):
        with suppress(AstunerError, OSError):
            facts = EvaluationFacts.read(path.parent)
            if Path(facts.model).expanduser().resolve() == checkpoint.folder:
                yield path.parent, facts


def _verification(facts: CardFacts) -> str:
    found = facts.agreement
    text = (
        f"Before it was given its name, it was loaded in {found.runtime} and asked "
        f"{found.num_probes} fixed conversations, written by the chat template in it. The prompts "
        f"were those of training; of {found.num_tokens} tokens that the trained model says most "
        f"likely, {found.num_equal_tokens} were said; the log-probabilities were "
        f"{found.mean_gap:.2g} nats a token apart in the mean, {found.max_gap:.2g} at most.\n"
    )
    if found.perplexity_ratio is not None:
        text += (
            "\nQuantized, it says something else now and then, by design: the figures are of the "
            "trained replies, whose perplexity in it is "
            f"{found.perplexity_ratio:.3f} times that in the trained model.\n"
        )
    if found.num_ties:
        text += (
            f"\n{found.num_ties} of the conversations part at two tokens that the trained model "
            "finds about equally likely, which rounding decides.\n"
        )
    if facts.recorded is not None:
        text += (
            f"\nThe {facts.recorded.num_tokens} tokens that the run sampled in the validation "
            "behind that step have in this checkpoint the log-probabilities that were recorded "
            f"then, up to {facts.recorded.mean:.2g} nats a token in the mean.\n"
        )
    if facts.change is not None:
        text += (
            f"\nTraining had moved the log-probabilities by {facts.change.mean_gap:.2g} nats a "
            f"token from the base, which says {facts.change.num_equal_tokens} of the same tokens.\n"
        )
    for warning in facts.warnings:
        text += f"\nWarning: {warning}.\n"
    return text + "\nThe figures, and the digests of all files, are in `export.json`.\n"


def _event(run: RunDir | None, name: str) -> Mapping[str, Any]:
    """The last of that name; empty where there is none."""
    if run is None or not run.events_file.exists():
        return {}
    with suppress(OSError, AstunerError):
        found = [event for event in read_json_lines(run.events_file) if event.get("event") == name]
        return found[-1] if found else {}
    return {}


def _table(rows: Iterator[tuple[str, str]]) -> str:
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    return f"`{str(value).replace('|', '/').replace('`', '')}`"


def _number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "not known"
