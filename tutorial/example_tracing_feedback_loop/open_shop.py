"""Customers of one week come to the deployed clerk, whose traces and whose customers' opinions go
to a collector.

    python -m tutorial.example_tracing_feedback_loop.open_shop --week 0 --num-customers 120

prints to how many of them it named the right desk, and the right paper to bring.
"""

import argparse
import asyncio
import itertools
import json

import agentscope
from agentscope.message import Msg
from agentscope.model import OpenAIChatModel
from opentelemetry import trace

from tutorial.example_tracing_feedback_loop.clerk import make_clerk
from tutorial.example_tracing_feedback_loop.shop import Customer, customers, is_right, opinion

MAX_TOKENS = 12
AT_ONCE = 8


async def serve_customer(customer: Customer, base_url: str) -> list[bool]:
    """Whether each of the replies was right."""
    agentscope.init(run_id=customer.name, logging_level="WARNING")  # one conversation in the traces
    clerk = make_clerk(
        OpenAIChatModel(
            "astuner",
            api_key="none",
            stream=False,
            client_kwargs={"base_url": base_url},
            generate_kwargs={"max_tokens": MAX_TOKENS},
        )
    )
    results = []
    for says, right in zip(customer.says, customer.right, strict=True):
        with trace.get_tracer("shop").start_as_current_span("request") as span:
            reply = await clerk.reply(Msg("customer", says, "user"))
            text = reply.get_text_content() or ""
            span.add_event("gen_ai.evaluation.result", opinion(text, right))
        results.append(is_right(text, right))
    return results


async def open_shop(week: int, num_customers: int, base_url: str) -> list[list[bool]]:
    places = asyncio.Semaphore(AT_ONCE)

    async def come_in(customer: Customer) -> list[bool]:
        async with places:
            return await serve_customer(customer, base_url)

    coming = itertools.islice(customers(week), num_customers)
    return await asyncio.gather(*map(come_in, coming))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--week", type=int, default=0, help="0 to 2 (default: %(default)s)")
    parser.add_argument("--num-customers", type=int, default=120, help="(default: %(default)s)")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="of the model")
    parser.add_argument("--collector", default="http://127.0.0.1:4318", help="where traces go")
    given = parser.parse_args()
    agentscope.init(tracing_url=f"{given.collector}/v1/traces", logging_level="WARNING")
    results = asyncio.run(open_shop(given.week, given.num_customers, given.base_url))
    desks, papers = map(sum, zip(*results, strict=True))
    counts = {"customers": len(results), "desks": desks, "papers": papers}
    print(json.dumps({"week": given.week, **counts}))


if __name__ == "__main__":
    main()
