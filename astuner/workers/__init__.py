"""Computations that may never end, in processes that can be ended.

`pool.py` keeps the processes; `child.py` is what runs in them; what is computed is one function in
a file of whoever needs it.
"""
