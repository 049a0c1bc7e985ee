"""What this machine and the account of this process allow, and what to say where they do not."""
