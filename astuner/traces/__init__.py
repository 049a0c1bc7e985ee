"""What deployed agents did, whoever recorded it, in one shape; and files of it.

A datum's way: a source (a file, a database, a server, our collector) yields spans, or whole traces;
a vocabulary says what the attributes of a span tell; spans that belong together wait on disk until
they are whole and become traces; secrets are masked before anything is written. Knows no tasks.
"""
