"""The log viewer: reads the directories of runs, shows them in a browser and in the terminal.

Never writes into a run directory, and knows nothing of training or of backbones.
"""
