"""Two agents as a plain function: one is trained, the other is the starting weights."""

from astuner import WorkflowOutput


async def duel(workflow_task, model_tuner):
    ann = model_tuner.as_agentscope_model("ann", "player")
    bob = model_tuner.as_agentscope_model("bob", "opponent", debug_model="reference")
    messages = [{"role": "user", "content": workflow_task.task.main_query}]
    for model in (ann, bob):
        reply = await model(messages)
        text = reply.content[0]["text"] if reply.content else ""
        messages = [{"role": "user", "content": f"{messages[-1]['content']} {text[:5]}"}]
    return WorkflowOutput(reward={"player": float(workflow_task.attempt % 2), "opponent": 0.0})


async def scored(task: dict, model):
    """As AgentScope's tuner has workflows; its data classes have these fields too."""
    reply = await model([{"role": "user", "content": task["main_query"]}])
    return Output(response=reply.content[0]["text"] if reply.content else "")


class Output:
    def __init__(self, response):
        self.reward, self.response, self.metrics = None, response, {"length": len(response)}


class Judged:
    def __init__(self, reward):
        self.reward, self.metrics = reward, {"half": reward / 2}


async def judge_length(task: dict, response) -> Judged:
    return Judged(float(len(response) % 3) + float(task["bonus"]))
