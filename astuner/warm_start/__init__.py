"""Learning from conversations whose replies are good already, before anything is sampled.

A datum's way: a line of a file or a task with a reference becomes a `GivenConversation`; replaying
it on the path of a rollout gives its tokens, of which the replies are read back and compared; what
agrees becomes samples, and those go through the trainer in the order of a plan. Knows no run.
"""
