"""The one path of a model call: messages to token ids, through an engine, and back to a reply."""
