"""What a task folder needs that is not here."""


class NeedsMore(Exception):
    """A task that a folder and the sandbox cannot give. The message says what it needs, as in
    "RUN apt-get install …", for a list of the tasks that are left out."""
