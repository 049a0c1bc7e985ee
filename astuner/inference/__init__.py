"""The one path of a model call: messages to token ids, through an engine, and back to a reply.

`request.py` is what an agent asks and gets, `chat.py` the path between. `tools/` has a file for
each format of tool calls, `shapes/` one for each shape in which a workflow gets its model.
"""
