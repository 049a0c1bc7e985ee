"""The adder as agents that know nothing of astuner: they are given an address and a key."""

import asyncio
import json

import openai

from astuner import Workflow, WorkflowOutput
from tests.agents.adder import SYSTEM_PROMPT, make_toolkit


class HttpAdderWorkflow(Workflow):
    """Async and streamed in even attempts; in odd ones sync in a thread, with a temperature."""

    name: str = "http_adder"

    async def execute(self, workflow_task, model_tuner):
        address = model_tuner.as_oai_baseurl_apikey("adder")
        options = {"base_url": address.base_url, "api_key": address.api_key}
        question = workflow_task.task.main_query
        if workflow_task.attempt % 2:
            text = await asyncio.to_thread(_ask_in_thread, question, options)
        else:
            async with openai.AsyncOpenAI(**options) as client:
                text = await _ask_in_stream(question, client)
        return WorkflowOutput(metadata={"final_answer": text})


def _fields(question):
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": question},
    ]
    return {"model": "m", "messages": messages, "tools": make_toolkit().get_json_schemas()}


def _ask_in_thread(question, options):
    fields = _fields(question)
    with openai.OpenAI(**options) as client:
        for _ in range(2):
            message = client.chat.completions.create(**fields, temperature=0.3).choices[0].message
            if not message.tool_calls:
                break
            fields["messages"] += [message, *_results(message)]
    return message.content or ""


async def _ask_in_stream(question, client):
    fields = _fields(question)
    for _ in range(2):
        async with client.chat.completions.stream(**fields) as stream:
            message = (await stream.get_final_completion()).choices[0].message
        if not message.tool_calls:
            break
        fields["messages"] += [message, *_results(message)]
    return message.content or ""


def _results(message):
    for call in message.tool_calls:
        numbers = json.loads(call.function.arguments)
        content = str(sum(numbers.values()))
        yield {"role": "tool", "tool_call_id": call.id, "content": content}
