"""The wire formats: a file for each way of asking for a completion, and what they are made of."""
