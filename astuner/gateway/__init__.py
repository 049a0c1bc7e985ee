"""The model over HTTP, in the formats that clients of OpenAI and Anthropic speak.

`gateway.py` is what a run opens; each episode gets a door in it, each agent a key. `endpoint.py` is
the path of one call: key, body, wire format, flight, `Chat.complete`, and back.
"""
