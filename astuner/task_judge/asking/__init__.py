"""What judges that ask a model have in common: what they show it, and how they take votes."""
