"""From paths to the chunks of documents that a model is shown."""
