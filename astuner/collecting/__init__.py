"""A receiver of OTLP over HTTP: what agents send as they run, masked, into files of JSON lines.

`export_request.py` reads a request and says what its answer is, `private_otlp.py` masks,
`kept_export.py` makes lines, `writing.py` writes them in a thread, `collector.py` is the server.
"""
