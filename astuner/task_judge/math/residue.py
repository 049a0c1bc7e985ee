r"""Residue classes: `x \equiv 8 (mod 5)` is `x \equiv 3 \pmod{5}`."""

import re

_RESIDUE = re.compile(
    r"(?:(?P<of>[^=<>]{1,100}?)\s?\\equiv\s?)?(?P<residue>-?\d{1,100})\s?"
    r"(?:\\(?:pmod|mod|bmod)\s?|\(\s?\\?mod\s?|mod\s)"
    r"\{?\s?(?P<modulus>\d{1,100})\s?\}?\)?",
    re.ASCII,
)


def same_residue(answer: str, reference: str) -> bool | None:
    """Whether both are the same class of the same thing; None where not both are a class."""
    matches = _RESIDUE.fullmatch(answer), _RESIDUE.fullmatch(reference)
    if not (matches[0] and matches[1]):
        return None
    of, others_of = (re.sub(r"\s", "", match["of"] or "") for match in matches if match)
    residues = [int(match["residue"]) for match in matches if match]
    moduli = [int(match["modulus"]) for match in matches if match]
    is_of_same = not of or not others_of or of == others_of
    if not is_of_same or moduli[0] != moduli[1] or moduli[0] == 0:
        return False
    return (residues[0] - residues[1]) % moduli[0] == 0
