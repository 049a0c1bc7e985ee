"""Places with traces, one file each: files, databases, servers. What is inside becomes spans where
it is spans, and whole traces where it is those; `known.py` has the table of them."""
