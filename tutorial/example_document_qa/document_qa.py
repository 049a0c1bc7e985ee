"""An agent that answers questions about documents, which it looks for passages in."""

from pathlib import Path
from typing import Any

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask
from tutorial.example_document_qa.passages import PassageSearch, open_search

FOLDER = Path(__file__).parent
AGENT_PROMPT = (
    "You answer questions about the documentation of a program. Search it with the tool, with "
    "other words where the first bring nothing, and then answer in a few words, without an "
    "explanation."
)
READER_PROMPT = "Choose the words that stand in the gap."
EXAMPLES = (
    (
        "The lamp has a switch at its back. It goes off by itself after 20 minutes of rest.",
        "Fill the gap: It goes off by itself after ____ of rest.\n- back\n- 20 minutes\n- switch",
        "20 minutes",
    ),
    (
        "Parcels are weighed by `scale.py`. One above 10 kg is refused, which is logged.",
        "Fill the gap: One above 10 kg is ____, which is logged.\n- refused\n- weighed\n- parcels",
        "refused",
    ),
    (
        "Water the plants twice a week. Oil the hinges, or set `door.force` to 3.",
        "Fill the gap: Oil the hinges, or set ____ to 3.\n- week\n- plants\n- `door.force`",
        "`door.force`",
    ),
    (
        "The kitchen opens at noon. Guests who are early wait in the hall, where tea is served.",
        "Fill the gap: Guests who are early wait in the ____, where tea is served."
        "\n- noon\n- hall\n- opens",
        "hall",
    ),
)
"""For a model that is too small to do as it is told: it does as it sees."""


class DocumentQaWorkflow(Workflow):
    """Asks an agent with a search tool; or, with `searches_once`, puts what is found for the
    question before it, for a model that cannot call tools."""

    name: str = "document_qa_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        config = model_tuner.config.document_qa
        search = open_search(find_chunks(config.chunks))
        question = workflow_task.task.main_query
        if config.searches_once:
            answer = await read_answer(model_tuner, search, question)
        else:
            answer = await search_answer(model_tuner, search, question)
        return WorkflowOutput(metadata={"final_answer": answer})


def find_chunks(name: str) -> Path:
    """From the current directory, or from beside this file."""
    here = Path(name)
    return here if here.exists() else FOLDER / name


async def read_answer(model_tuner: ModelTuner, search: PassageSearch, question: str) -> str:
    found = "\n".join(search.find(question, num_found=1))
    messages = reader_messages(found, question)
    reply = await model_tuner(messages)
    return "".join(block["text"] for block in reply.content if block["type"] == "text")


def reader_messages(text: str, question: str) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": READER_PROMPT}]
    for shown, asked, answer in EXAMPLES:
        messages.append({"role": "user", "content": f"{shown}\n\n{asked}"})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": f"{text}\n\n{question}"}]


async def search_answer(model_tuner: ModelTuner, search: PassageSearch, question: str) -> str:
    from agentscope.agent import ReActAgent
    from agentscope.formatter import DashScopeChatFormatter
    from agentscope.memory import InMemoryMemory
    from agentscope.message import Msg, TextBlock
    from agentscope.tool import Toolkit, ToolResponse

    async def search_documents(query: str) -> ToolResponse:
        """Find the passages of the documentation that fit a query best.

        Args:
            query (str): words to look for
        """
        found = search.find(query, num_found=3)
        text = "\n\n---\n\n".join(found) or "Nothing was found; try other words."
        return ToolResponse(content=[TextBlock(type="text", text=text)])

    toolkit = Toolkit()
    toolkit.register_tool_function(search_documents)
    agent = ReActAgent(
        name="document_agent",
        sys_prompt=AGENT_PROMPT,
        model=model_tuner,  # the model that is tuned
        formatter=DashScopeChatFormatter(),
        toolkit=toolkit,
        memory=InMemoryMemory(),
        max_iters=model_tuner.config.astuner.rollout.multi_turn.max_steps,
    )
    agent.set_console_output_enabled(False)
    reply = await agent.reply(Msg("user", question, role="user"))
    return reply.get_text_content() or ""
