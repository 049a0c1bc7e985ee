"""What runs in the processes of environments, under the interpreter that they need.

`child.py` is started as a script and loads its neighbours by path, so that nothing of astuner has
to be installed there. All of it uses the standard library only.
"""
