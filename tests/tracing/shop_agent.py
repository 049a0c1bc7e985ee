"""An agent of a small shop that is asked in turns, recorded by a real instrumentation.

Run as a process, since tracer providers and patches are set once in one: its argument is an Order
as JSON. Needs nothing of this project.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict

SYSTEM = "You are the agent of a small shop."
TOOL = {
    "type": "function",
    "function": {
        "name": "find_parcel",
        "description": "Tells where a parcel is.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "string"}},
            "required": ["number"],
        },
    },
}


class Endpoint(TypedDict):
    """Where spans are sent to."""

    url: str
    headers: dict[str, str]


class Order(TypedDict):
    recorder: str
    """A key of PLAYED."""
    model_url: str
    """Of an OpenAI-compatible server."""
    conversations: dict[str, Sequence[str]]
    """What is asked in turn, by the session."""
    endpoints: Sequence[Endpoint]


def find_parcel(number: str) -> str:
    """Tells where a parcel is."""
    return f"Parcel {number} is at depot 3."


# agents


def ask_by_openai(order: Order, session: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=order["model_url"], api_key="none")
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    for question in order["conversations"][session]:
        messages.append({"role": "user", "content": question})
        while calls := _said_by(client, messages).get("tool_calls"):
            messages += map(_called, calls)


def _said_by(client: Any, messages: list[Any]) -> dict[str, Any]:
    """The next reply, which is among the messages then."""
    made = client.chat.completions.create(model="scripted", messages=messages, tools=[TOOL])
    messages.append(made.choices[0].message.model_dump(exclude_none=True))
    return messages[-1]


def _called(call: Any) -> dict[str, Any]:
    result = find_parcel(**json.loads(call["function"]["arguments"]))
    return {"role": "tool", "tool_call_id": call["id"], "content": result}


def ask_by_langchain(order: Order, session: str) -> None:
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.memory import InMemorySaver

    model = ChatOpenAI(model="scripted", base_url=order["model_url"], api_key="none")
    agent = create_agent(
        model, tools=[find_parcel], system_prompt=SYSTEM, checkpointer=InMemorySaver(), name="shop"
    )
    for question in order["conversations"][session]:
        agent.invoke(
            {"messages": [{"role": "user", "content": question}]},
            config={"configurable": {"thread_id": session}},
        )


# recorders


@contextlib.contextmanager
def sending(order: Order) -> Iterator[Any]:
    """A provider whose spans have all been sent behind it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    for endpoint in order["endpoints"]:
        exporter = OTLPSpanExporter(endpoint["url"], headers=endpoint["headers"])
        provider.add_span_processor(BatchSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@contextlib.contextmanager
def sending_logs(order: Order) -> Iterator[Any]:
    """The same for log records, which go to the neighbours of these addresses."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider()
    for endpoint in order["endpoints"]:
        url = endpoint["url"].replace("/v1/traces", "/v1/logs")
        exporter = OTLPLogExporter(url, headers=endpoint["headers"])
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    yield provider
    provider.shutdown()


def with_opentelemetry(order: Order, contents: str = "SPAN_ONLY") -> None:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = contents
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    from opentelemetry.util.genai.handler import TelemetryHandler

    with sending(order) as traces, sending_logs(order) as logs:
        providers = {"tracer_provider": traces, "logger_provider": logs}
        OpenAIInstrumentor().instrument(**providers)
        handler = TelemetryHandler(**providers)
        for session in order["conversations"]:
            with handler.invoke_local_agent(agent_name="shop", conversation_id=session):
                ask_by_openai(order, session)


def with_opentelemetrys_events(order: Order) -> None:
    with_opentelemetry(order, "EVENT_ONLY")


def with_openinference(order: Order) -> None:
    from openinference.instrumentation import using_session
    from openinference.instrumentation.openai import OpenAIInstrumentor

    with sending(order) as provider:
        OpenAIInstrumentor().instrument(tracer_provider=provider)
        for session in order["conversations"]:
            with using_session(session):
                ask_by_openai(order, session)


def with_langchain(order: Order) -> None:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    with sending(order) as provider:
        LangChainInstrumentor().instrument(tracer_provider=provider)
        for session in order["conversations"]:
            ask_by_langchain(order, session)


def with_mlflow(order: Order) -> None:
    """By MLflow's own client, to its own server."""
    import mlflow
    import mlflow.openai

    [endpoint] = order["endpoints"]
    mlflow.set_tracking_uri(endpoint["url"].removesuffix("/v1/traces"))
    mlflow.set_experiment(experiment_id=endpoint["headers"]["x-mlflow-experiment-id"])
    mlflow.openai.autolog()
    for session in order["conversations"]:
        with mlflow.start_span("shop", span_type="AGENT"):
            mlflow.update_current_trace(metadata={"mlflow.trace.session": session})
            ask_by_openai(order, session)
    mlflow.flush_trace_async_logging()


PLAYED: dict[str, Callable[[Order], None]] = {
    "opentelemetry": with_opentelemetry,
    "opentelemetry, contents in events": with_opentelemetrys_events,
    "openinference": with_openinference,
    "langchain": with_langchain,
    "mlflow": with_mlflow,
}

if __name__ == "__main__":
    order: Order = json.loads(sys.argv[1])
    PLAYED[order["recorder"]](order)
