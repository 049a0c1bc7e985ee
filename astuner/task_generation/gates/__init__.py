"""What a draft must pass to become a task: a file for each gate."""
