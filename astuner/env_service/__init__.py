"""Worlds that agents act in: what one is, how it is served, and how an episode has one around it.

`environment.py` is the class that a user writes, `server/` serves it, each instance in a process of
its own. `instance.py` is what an episode needs of an instance, whoever serves it; `client.py`,
`openenv.py` and `ors.py` speak the protocols of servers. `gym_env.py` is what a workflow gets.
`adapters/` are worlds that people already have. `mcp_tools.py` opens servers that are no worlds,
only an agent's tools. Knows no workflow and no judge.
"""
