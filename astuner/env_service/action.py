"""What an agent does in an environment. Imports nothing: it also runs where astuner is not."""


class Action(str):
    """The text of an action, with the tool calls that came with it.

    Action("up"), or Action("", tool_calls=[{"name": "move", "arguments": {"to": "up"}}]).
    """

    tool_calls: tuple
    """Each {"name": str, "arguments": dict}, in order; empty without any."""

    def __new__(cls, text: str = "", *, tool_calls: object = ()) -> "Action":
        action = super().__new__(cls, text)
        action.tool_calls = tuple(tool_calls)  # type: ignore[arg-type]  # any iterable
        return action
