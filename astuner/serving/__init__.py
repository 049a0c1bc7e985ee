"""What any HTTP server of ours needs, whatever it serves.

`server.py` runs an ASGI application in an event loop. Whoever serves hands in the application and
the names of its settings; keys, bounds and hosts raise a `Refusal`, and the server writes it in the
shape that its clients expect.
"""
