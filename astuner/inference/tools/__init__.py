"""How a model writes tool calls: a file for each format, and what is done with any of them.

`formats.py` is the table of the formats; a new one is a file and an entry there. Pure text: no
tokens, no templates. Tools and messages are those of OpenAI's chat format; arguments of calls are
objects, not text.
"""
