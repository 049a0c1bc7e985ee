"""Builders that several tests share: a chat over a scripted engine, calls, tools."""

from astuner.engine.protocol import Sampling
from astuner.inference.chat import TokenChat
from astuner.inference.limits import TokenLimits
from astuner.inference.template import ChatTemplate
from astuner.trajectory.recorder import Call, Recorder
from astuner.types import Completion
from tests.fakes import ByteTokenizer, ScriptedEngine

ADD_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
WIDE = TokenLimits(
    max_model_len=100_000,
    max_prompt_length=50_000,
    max_response_length=50_000,
    max_response_length_in_one_turn=10_000,
)


def make_chat(
    script,
    *,
    tokenizer=None,
    template=None,
    limits=WIDE,
    find_madness=lambda reply: None,
    ends_on_madness=True,
    recorder=None,
    **options,
) -> TokenChat:
    tokenizer = tokenizer or ByteTokenizer()
    template = template or ChatTemplate(tokenizer)
    engine = script if hasattr(script, "generate") else ScriptedEngine(script, tokenizer=tokenizer)
    return TokenChat(
        engine,
        template,
        recorder or Recorder(),
        episode_id="episode",
        sampling=Sampling(
            temperature=0.7, top_p=1.0, top_k=-1, max_new_tokens=1000, stop_ids=template.stop_ids
        ),
        limits=limits,
        offers_tools=True,
        find_madness=find_madness,
        ends_on_madness=ends_on_madness,
        **options,
    )


def make_call(
    prompt_ids,
    completion_ids,
    *,
    agent_name="agent",
    target_tag="tag",
    temperature=0.7,
    is_trained=True,
) -> Call:
    """A call with given tokens; log-probabilities are minus the ids over 1000."""
    return Call(
        agent_name=agent_name,
        target_tag=target_tag,
        messages=(),
        tools=(),
        prompt_ids=tuple(prompt_ids),
        completion=Completion(
            ids=tuple(completion_ids),
            logprobs=tuple(-i / 1000 for i in completion_ids),
            finish_reason="stop",
            weight_version=0,
        ),
        reply={"role": "assistant", "content": ""},
        temperature=temperature,
        extends=None,
        break_reason=None,
        started_seconds=0.0,
        seconds=0.0,
        is_trained=is_trained,
    )
