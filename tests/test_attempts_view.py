"""Attempts at one task beside each other: what they share, and where each first parts."""

from astuner.logview.view.attempts import blocks, compare_attempts, last_answer, spoken_messages
from astuner.trajectory.record import episode_from_record
from tests.viewer_runs import record


def episode(*turns, reward=1.0, agents=None):
    """An agent that is asked, says each of the turns, and hears of a tool between two of them.

    A turn is a text, or a message; `agents` names who says each.
    """
    first = record("e", reward=reward, said=("the question", ""))
    names = agents or ["solver"] * len(turns)
    calls, heard = [], first["calls"][0]["messages"]
    for index, (turn, name) in enumerate(zip(turns, names, strict=True)):
        reply = {"role": "assistant", "content": turn} if isinstance(turn, str) else turn
        earlier = next((i for i in reversed(range(index)) if names[i] == name), None)
        messages = heard if earlier is None else [{"role": "tool", "content": f"heard {index}"}]
        extends = {"extends": earlier, "tools": [] if earlier is None else None}
        call = first["calls"][0] | extends
        calls.append(call | {"agent_name": name, "messages": messages, "reply": reply})
    agents_told = [[name, "default", True] for name in dict.fromkeys(names)]
    return episode_from_record(
        first | {"calls": calls, "sequences": [], "agents": agents_told, "episode_id": str(turns)}
    )


def calling(command, *, id_="c0", content=""):
    function = {"name": "run", "arguments": {"command": command}}
    call = {"id": id_, "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def folds(*episodes, first=0):
    """For each attempt how many messages are shown, or folded, in a row: "2", "(3)"; "(3=)" where
    they are folded since the other says them too."""
    compared = compare_attempts(episodes, first=first)
    return [
        " ".join(
            f"({len(one.messages)}{'=' if one.is_as_beside else ''})"
            if one.is_folded
            else str(len(one.messages))
            for one in blocks(attempt, is_first=index == first)
        )
        for index, attempt in enumerate(compared.attempts)
    ]


def marks(*episodes):
    """The marked word of each attempt, and the index of its message."""
    found = []
    for attempt in compare_attempts(episodes).attempts:
        for message in attempt.messages:
            if message.is_first_difference:
                words = [part.text.differing for part in message.parts if part.text.differing]
                found.append((message.index, *words))
    return found


def test_what_all_attempts_begin_with_is_shared():
    compared = compare_attempts([episode("a", "b", "x"), episode("a", "b", "y"), episode("a", "c")])
    assert [part.text.shared for one in compared.shared for part in one.parts] == [
        "the question",
        "a",
        "heard 1",
    ]
    assert compared.num_different == 3


def test_each_attempt_is_marked_where_it_first_differs_from_the_first():
    assert marks(
        episode("a", "so it is 5", reward=1.0),
        episode("a", "so it is 4", reward=0.0),
        episode("b", "so it is 5", reward=0.0),
    ) == [(3, "5"), (3, "4"), (1, "b")]


def test_the_first_is_compared_with_the_next_of_another_reward():
    compared = compare_attempts([episode("a"), episode("b"), episode("c", reward=0.0)])
    assert [attempt.beside for attempt in compared.attempts] == [2, 0, 0]
    other = compare_attempts([episode("a"), episode("a"), episode("c")])
    assert other.attempts[0].beside == 2


def test_messages_that_tell_little_are_folded():
    long = [f"say {n}" for n in range(8)]
    other = [*long[:3], "differs", *long[4:]]
    early = ["early", *long[1:]]
    assert folds(episode(*long), episode(*other), episode(*early)) == [
        "2 (4) 2 (6) 1",
        "(6=) 2 (6) 1",
        "2 (12) 1",
    ]


def test_one_message_alone_is_not_folded():
    assert folds(episode("a", "b"), episode("x", "b")) == ["3", "3"]


def test_attempts_that_say_the_same_show_the_first_of_them_only():
    assert folds(episode("a"), episode("a")) == ["1", "(1=)"]


def test_an_attempt_that_ends_where_the_other_goes_on_is_told():
    compared = compare_attempts([episode("a", "b"), episode("a")])
    first, second = compared.attempts
    assert (first.ends_early, second.ends_early, second.is_same) == (False, True, False)


def test_tool_calls_differ_by_what_they_call_and_not_by_their_ids():
    same = compare_attempts([episode(calling("ls")), episode(calling("ls", id_="other"))])
    assert same.num_different == 1
    assert marks(episode(calling("ls a")), episode(calling("ls b"))) == [(1, "a"), (1, "b")]


def test_a_thought_and_a_text_are_compared_part_by_part():
    one = {"role": "assistant", "content": "5", "reasoning_content": "two and three"}
    other = one | {"content": "4"}
    assert marks(episode(one), episode(other)) == [(1, "5"), (1, "4")]
    assert marks(episode(one), episode("5")) == [(1, "two"), (1, "5")]


def test_agents_are_named_where_there_are_several():
    messages = spoken_messages(episode("a", "b", agents=["ann", "bob"]))
    assert {message.speaker for message in messages} == {"ann", "bob"}
    assert {message.speaker for message in spoken_messages(episode("a"))} == {""}


def test_the_last_answer_is_the_last_thing_that_was_said():
    assert last_answer(episode("a", "b", "")) == "b"
    assert last_answer(episode(calling("ls"))) == 'run({"command": "ls"})'
    assert last_answer(episode(calling("ls", content="look"))) == "look"
    assert last_answer(episode("")) == ""
