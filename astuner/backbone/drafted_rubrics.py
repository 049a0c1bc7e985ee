"""The rubrics of a run, before its first episode: drafted, found in the run directory, or read.

They are put into the configuration whole, which is what judges read and what travels: no process
of a cluster drafts, or needs a file of the command's machine.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import OmegaConf

from astuner.backbone.judge_process import judge_of, own_judges_of
from astuner.backbone.run import Backbone, Run, RunResult
from astuner.config.resolved import resolved_config
from astuner.config.sections.task_judge import RubricsAutoGraderSettings
from astuner.errors import ConfigError
from astuner.llm import open_language_model
from astuner.task_judge.rubrics.checking import Checker
from astuner.task_judge.rubrics.drafting import DraftedRubrics, Drafter, DraftingLimits
from astuner.task_judge.rubrics.examples import (
    ExampleForm,
    LabelledExample,
    examples_digest,
    read_examples,
)
from astuner.task_judge.rubrics.grading_settings import GradingSettings, given_rubrics
from astuner.task_judge.rubrics.proposals import Proposer
from astuner.task_judge.rubrics.rubric import VERSION, Making, RubricSet
from astuner.task_judge.rubrics.rubric_file import read_rubrics, save_rubrics
from astuner.task_reader.local_path import find_path, places


class WithRubrics:
    """A backbone whose runs have the rubrics that their judge grades by."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    async def run(self, run: Run) -> RunResult:
        return await self._backbone.run(await with_rubrics(run))


async def with_rubrics(run: Run) -> Run:
    """The run with its rubrics in the configuration, drafted where they have to be.

    Raises ConfigError for rubrics or examples that cannot be read, BackboneError where none can be
    drafted.
    """
    judge = run.settings.task_judge
    rubrics = given_rubrics(judge.rubrics)
    if rubrics is None and judge.judge_type == "rubrics_auto_grader":
        rubrics = await _found_or_drafted(run)
    if rubrics is None:
        return run
    config = _with_inline(run.config, rubrics)
    if judge.judge_type != "rubrics_auto_grader":
        return replace(run, config=config)
    return replace(
        run,
        config=config,
        judge=judge_of(run.settings, config, run.search_dirs),
        own_judges=own_judges_of(run.settings, config, run.search_dirs),
    )


async def _found_or_drafted(run: Run) -> RubricSet:
    grader = run.settings.task_judge.rubrics_auto_grader
    form = ExampleForm(
        is_ranked=grader.grader_mode == "listwise",
        query_field=grader.query_field,
        reference_field=grader.reference_field,
        min_score=grader.min_score,
        max_score=grader.max_score,
    )
    path = _examples_file(run, grader)
    examples = read_examples(path, form, run.console.warn)
    digest = examples_digest(examples, form)
    found = _saved(run, grader, digest)
    if found is not None:
        return found
    run.console.say(
        f"rubrics: {grader.model_name} drafts them from {len(examples)} labelled examples of {path}"
    )
    draft = await _draft(run, grader, examples)
    rubrics = RubricSet(
        version=VERSION,
        name=grader.grader_name,
        language=grader.language,
        made=Making(
            by="model",
            model=grader.model_name,
            examples_digest=digest,
            num_examples=len(examples),
            agreement=draft.agreement,
            date=datetime.now(UTC).date().isoformat(),
        ),
        rubrics=draft.rubrics,
    )
    file = run.run_dir.new_rubrics_file()
    save_rubrics(rubrics, file)
    run.console.say(f"rubrics: they are in {file}")
    return rubrics


def _saved(run: Run, grader: RubricsAutoGraderSettings, digest: str) -> RubricSet | None:
    """Those of an earlier start by the same model, in the same language, from the same examples."""
    wanted = (grader.model_name, digest, grader.language)
    others = []
    for file in run.run_dir.rubrics_files():
        rubrics = read_rubrics(file)
        if (rubrics.made.model, rubrics.made.examples_digest, rubrics.language) == wanted:
            run.console.say(f"rubrics: those of {file} are used again")
            return rubrics
        others.append(file.name)
    if others:
        run.console.warn(
            f"the rubrics in {', '.join(others)} were drafted by another model, in another "
            "language or from other examples, and are drafted anew: rewards before and after this "
            "start differ. To go on with them, name the file in astuner.task_judge.rubrics.file"
        )
    return None


async def _draft(
    run: Run, grader: RubricsAutoGraderSettings, examples: list[LabelledExample]
) -> DraftedRubrics:
    settings = run.settings
    model = open_language_model(
        settings.llm,
        grader.model_name,
        max_new_tokens=settings.task_judge.alien_llm_response_length,
    )
    drafter = Drafter(
        Proposer(model, language=grader.language, max_retries=grader.max_retries),
        Checker(
            model=model,
            min_score=grader.min_score,
            max_score=grader.max_score,
            instructions=GradingSettings.read(settings).instructions,
            min_new_tokens=settings.task_judge.alien_llm_response_length,
        ),
        DraftingLimits(
            query_specific_generate_number=grader.query_specific_generate_number,
            max_epochs=grader.max_epochs,
            batch_size=grader.batch_size,
            mcr_batch_size=grader.mcr_batch_size,
            min_increment_threshold=grader.min_increment_threshold,
            patience=grader.patience,
            max_iterations=grader.max_iterations,
            max_total_rubrics=grader.max_total_rubrics,
            num_themes=grader.categories_number if grader.enable_categorization else None,
        ),
        language=grader.language,
        random=Random(settings.rollout.seed),
        say=run.console.say,
    )
    async with model:
        return await drafter.draft(examples)


def _examples_file(run: Run, grader: RubricsAutoGraderSettings) -> Path:
    name = grader.jsonl_dataset_file.training.file_path
    assert name is not None, "checked with the settings"
    path = find_path(name, run.search_dirs)
    if path is None:
        raise ConfigError(
            "astuner.task_judge.rubrics_auto_grader.jsonl_dataset_file.training.file_path: no such "
            f"file; looked for {', '.join(map(str, places(name, run.search_dirs)))}"
        )
    return path


def _with_inline(config: Any, rubrics: RubricSet) -> Any:
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    section = values["astuner"]["task_judge"]["rubrics"]
    section |= {"file": None, "inline": rubrics.as_items(), "language": rubrics.language}
    return resolved_config({str(key): value for key, value in values.items()})
