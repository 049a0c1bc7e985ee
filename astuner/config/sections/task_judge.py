"""`astuner.task_judge`: who judges episodes, and how."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.reader_type import ReaderType, TrainingFileSettings


class MathAnswerSettings(Section):
    accept_last_number: bool = setting(
        UsedBy.ALL, "Where nothing is boxed, the last number of the text is the answer."
    )


class RubricsAutoGraderSettings(Section):
    """Rubrics drafted from labelled examples when a run starts, and how they grade."""

    model_name: str = setting(UsedBy.ALL, "Model that drafts the rubrics and grades by them.")
    grader_mode: Literal["pointwise", "listwise"] = setting(
        UsedBy.ALL, "Each answer by itself, or the answers of a group compared."
    )
    language: Literal["en", "zh"] = setting(UsedBy.ALL, "Of the rubrics and the reasons.")
    query_specific_generate_number: PositiveInt = setting(
        UsedBy.ALL, "Rubrics proposed from one example."
    )
    enable_categorization: bool = setting(UsedBy.ALL, "Merge the drafted rubrics by their themes.")
    categories_number: PositiveInt = setting(UsedBy.ALL, "Most themes.")
    grader_name: str = setting(UsedBy.ALL, "Name of the rubrics in their file.", min_length=1)
    query_field: str = setting(
        UsedBy.ALL, "Where the question stands: main_query, or a field of the task's metadata."
    )
    answer_field: str = setting(
        UsedBy.ALL, "Field of the answer to grade in the metadata of the workflow's output."
    )
    reference_field: str = setting(
        UsedBy.ALL,
        "Field of the task's metadata with a reference answer, shown to the model where a task has "
        "one.",
    )
    custom_evaluation_prompt: Any = setting(
        UsedBy.ALL,
        "Instructions in place of the built-in ones: a text, which may name {query}, {answer}, "
        "{reference} and {rubrics}, or texts by language; null: the built-in ones.",
    )
    input_data_type: ReaderType = setting(
        UsedBy.ALL, "Where the labelled examples come from; jsonl_dataset_file."
    )
    jsonl_dataset_file: TrainingFileSettings
    min_score: float = setting(UsedBy.ALL, "Reward, and label, of the worst answer; pointwise.")
    max_score: float = setting(UsedBy.ALL, "Reward, and label, of the best answer; pointwise.")
    success_threshold: float = setting(UsedBy.ALL, "A reward from here on is a success.")
    max_retries: NonNegativeInt = setting(
        UsedBy.ALL, "Further tries of a question of drafting that got no usable answer."
    )
    max_epochs: PositiveInt = setting(
        UsedBy.ALL, "Most revisions of an iteration's proposals by what they graded wrongly."
    )
    batch_size: PositiveInt = setting(UsedBy.ALL, "Examples of one iteration.")
    mcr_batch_size: PositiveInt = setting(
        UsedBy.ALL, "Most proposals that one iteration adds; those most unlike the others."
    )
    min_increment_threshold: NonNegativeFloat = setting(
        UsedBy.ALL, "An iteration is kept where agreement with the labels grows by this."
    )
    patience: PositiveInt = setting(UsedBy.ALL, "Iterations without a gain before stopping.")
    max_iterations: PositiveInt = setting(UsedBy.ALL, "Most iterations.")
    max_total_rubrics: PositiveInt = setting(UsedBy.ALL, "Most rubrics at any time.")


class RubricsSettings(Section):
    """Rubrics written by hand, or drafted before, for RubricsJudge and RankingJudge."""

    file: str | None = setting(
        UsedBy.ALL,
        "YAML or JSON file of rubrics, from the current directory or the folder of the YAML.",
        min_length=1,
    )
    inline: list[dict[str, Any]] = setting(
        UsedBy.ALL, "The rubrics themselves, in place of a file: {name, text, weight}."
    )
    language: str | None = setting(
        UsedBy.ALL, "Of the reasons; null: that of the file, or of the rubrics.", min_length=1
    )
    query_field: str = setting(
        UsedBy.ALL, "Where the question stands: main_query, or a field of the task's metadata."
    )
    answer_field: str = setting(UsedBy.ALL, "Field of the metadata of the workflow's output.")
    reference_field: str | None = setting(
        UsedBy.ALL, "Field of the task's metadata with a good answer; null: none is shown."
    )
    min_score: float = setting(UsedBy.ALL, "Reward where every rubric has its lowest score.")
    max_score: float = setting(UsedBy.ALL, "Reward where every rubric has its highest score.")
    success_threshold: float = setting(UsedBy.ALL, "A reward from here on is a success.")
    instructions: str | None = setting(
        UsedBy.ALL,
        "In place of the built-in ones; may name {query}, {answer}, {reference} and {rubrics}.",
        min_length=1,
    )


class RankingSettings(Section):
    """How RankingJudge compares a group."""

    orders: PositiveInt = setting(
        UsedBy.ALL, "Orders in which the answers are shown, a question each; an even number."
    )
    max_chars: PositiveInt = setting(
        UsedBy.ALL, "Characters of one question; a group that needs more is not judged."
    )


class LlmAsJudgeSettings(Section):
    rubric: str = setting(UsedBy.ALL, "By what the model grades.", min_length=1)
    prompt: str | None = setting(
        UsedBy.ALL,
        "Template with {rubric}, {question}, {reference} and {answer}; null: the built-in one.",
        min_length=1,
    )
    query_field: str = setting(
        UsedBy.ALL, "Field of the question: main_query, or a name in the task's metadata."
    )
    answer_field: str = setting(UsedBy.ALL, "Field of the answer in the workflow's metadata.")
    reference_field: str | None = setting(
        UsedBy.ALL, "Field of the reference answer in the task's metadata; null: none is shown."
    )
    min_score: float = setting(UsedBy.ALL, "The worst score.")
    max_score: float = setting(UsedBy.ALL, "The best score.")
    success_threshold: float | None = setting(
        UsedBy.ALL, "A score from here on is a success; null: the model says what is one."
    )
    scale_reward: bool = setting(
        UsedBy.ALL, "Whether the reward runs from 0 to 1; else it is the score."
    )
    votes: PositiveInt = setting(UsedBy.ALL, "How often the model is asked about one answer.")
    vote_rule: Literal["mean", "majority"] = setting(
        UsedBy.ALL, "What several votes come to: their mean, or the score that most of them gave."
    )
    temperature: NonNegativeFloat | None = setting(
        UsedBy.ALL, "null: 0 for one vote, 0.7 for several, which at 0 would all be the same."
    )


class CodeJudgeSettings(Section):
    tests_field: str | None = setting(
        UsedBy.ALL,
        "Field of the task's metadata with its tests; null: the first of tests, test_list, test.",
    )
    reference_field: str = setting(
        UsedBy.ALL,
        "Field of the task's metadata with a solution; where that fails the tests too, nobody is "
        "judged by them.",
    )
    reward: Literal["share", "all_or_nothing"] = setting(UsedBy.ALL, "Of the tests that pass.")
    command: str | None = setting(
        UsedBy.ALL,
        'Shell command that runs a program of {input, output} tests, such as "node main.js"; null: '
        "Python.",
    )
    file_name: str = setting(UsedBy.ALL, "Of the program in its folder.", min_length=1)
    timeout_seconds: PositiveFloat = setting(UsedBy.ALL, "Of one test; longer is a failed test.")
    total_seconds: PositiveFloat = setting(
        UsedBy.ALL, "Of all tests of an answer; those after that are failed."
    )
    num_parallel: PositiveInt = setting(UsedBy.ALL, "Answers that are tested at the same time.")
    accept_no_isolation: bool = setting(
        UsedBy.ALL, "Also in a sandbox of kind none, in which code can read the tests."
    )


class ExactMatchSettings(Section):
    answer_field: str = setting(
        UsedBy.ALL, "Field of the task's metadata with the accepted answer, or a list of them."
    )
    pattern: str | None = setting(
        UsedBy.ALL,
        "Regular expression whose last match in the reply is the answer, or its first group; "
        "null: the whole reply.",
    )
    ignore_case: bool = setting(UsedBy.ALL)
    ignore_whitespace: bool = setting(UsedBy.ALL, "Around words any is one space.")
    ignore_punctuation: bool = setting(UsedBy.ALL)
    ignore_articles: bool = setting(UsedBy.ALL, "a, an, the, as SQuAD's own script has it.")


class JsonSchemaJudgeSettings(Section):
    schema_field: str = setting(UsedBy.ALL, "Field of the task's metadata with its JSON schema.")
    json_schema: dict[str, Any] | None = setting(
        UsedBy.ALL, "For tasks that bring none; null: then only the reference counts."
    )
    reference_field: str = setting(
        UsedBy.ALL, "Field of the task's metadata with the JSON to be held against."
    )
    schema_weight: NonNegativeFloat = setting(
        UsedBy.ALL, "Of fitting the schema, where there is a reference too."
    )
    reference_weight: NonNegativeFloat = setting(
        UsedBy.ALL, "Of the share of the reference's fields that are equal."
    )


class LengthJudgeSettings(Section):
    unit: Literal["characters", "words"] = setting(UsedBy.ALL)
    target: PositiveInt = setting(UsedBy.ALL, "Up to here the reward is 1.")
    max: PositiveInt = setting(UsedBy.ALL, "From here on it is 0.")


class FormatJudgeSettings(Section):
    must_match: list[str] = setting(UsedBy.ALL, "Regular expressions, each found in the reply.")
    must_not_match: list[str] = setting(UsedBy.ALL, "None of them found in the reply.")


class CombinedJudgeSettings(Section):
    parts: dict[str, Any] = setting(
        UsedBy.ALL,
        "By name: {judge_protocol, weight: 1, gate: false, least: null, settings: {}}; settings "
        "are laid over task_judge for that part.",
    )
    success_threshold: float = setting(UsedBy.ALL, "A reward from here on is a success.")
    success_part: str | None = setting(
        UsedBy.ALL, "The part whose success is that of the whole; null: success_threshold."
    )


class TaskJudgeSettings(Section):
    judge_type: Literal["customized_protocol", "rubrics_auto_grader"] = setting(UsedBy.ALL)
    judge_protocol: str | None = setting(
        UsedBy.ALL, 'The judge class, "pkg.mod->Name"; null: workflows give every reward.'
    )
    judge_timeout_seconds: PositiveFloat = setting(UsedBy.ALL, "A judge that takes longer failed.")
    judge_in_process: bool = setting(
        UsedBy.ALL,
        "Ask the judge in processes of its own, which are ended where it takes too long, also in C "
        "code that holds the interpreter lock.",
    )
    math_answer: MathAnswerSettings
    alien_llm_model: str = setting(UsedBy.ALL, "Auxiliary model of judges that ask one.")
    alien_llm_response_length: PositiveInt = setting(UsedBy.ALL, "Most new tokens of its answer.")
    rubrics_auto_grader: RubricsAutoGraderSettings
    llm_as_judge: LlmAsJudgeSettings
    rubrics: RubricsSettings
    ranking: RankingSettings
    code: CodeJudgeSettings
    exact_match: ExactMatchSettings
    json_schema: JsonSchemaJudgeSettings
    length: LengthJudgeSettings
    format: FormatJudgeSettings
    combined: CombinedJudgeSettings
