"""What is taken off the reward of an episode before advantages are made. Pure Python."""


def overlong_penalty(num_tokens: int, *, max_tokens: int, buffer: int, factor: float) -> float:
    """Grows linearly from 0 to `factor` over the last `buffer` of `max_tokens` tokens.

    Source: soft overlong punishment of DAPO, arXiv 2503.14476, equation 13, with its sign turned.
    """
    excess = num_tokens - (max_tokens - buffer)
    return factor * min(1.0, max(0.0, excess / buffer))
