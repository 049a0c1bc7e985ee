"""Personal data and secrets that have a public form: patterns, and checks of a few lines."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECRET = "key or password"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSpan:
    """A place in a text that nobody else should read."""

    begin: int
    end: int
    kind: str
    """In words, such as "e-mail address"; the value itself is kept nowhere."""


_LETTER_AND_DIGIT = re.compile(r"[A-Za-z].{0,100}\d|\d.{0,100}[A-Za-z]")
_PLACEHOLDER = re.compile(r"example|your|xxxx|\*\*\*|[<>{}$]|:password@|:secret@", re.IGNORECASE)


def is_key(value: str) -> bool:
    """Not what a manual writes in place of one, nor a word that looks like one."""
    return bool(_LETTER_AND_DIGIT.search(value)) and not _PLACEHOLDER.search(value)


def find_by_pattern(text: str) -> Iterator[PrivateSpan]:
    """In any order; may overlap."""
    for kind, pattern, counts in _PATTERNS:
        for match in pattern.finditer(text):
            if counts(match):
                begin, end = match.span("value" if "value" in pattern.groupindex else 0)
                yield PrivateSpan(begin=begin, end=end, kind=kind)


_ROLE = re.compile(
    r"abuse|admin|billing|contact|feedback|git|hello|help|helpdesk|hostmaster|info|legal"
    r"|mailer-daemon|marketing|news|noc|no-?reply|office|postmaster|press|privacy|root|sales"
    r"|security|service|support|team|webmaster"
)


def _is_persons_email(match: re.Match[str]) -> bool:
    mailbox, _, domain = match.group().lower().rpartition("@")
    *_, second, top = ("", *domain.split("."))
    is_example = top in ("example", "test", "invalid", "localhost", "local") or second == "example"
    return not is_example and not _ROLE.fullmatch(mailbox.partition("+")[0])


_RESOLVERS = ("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9")
"""Public name servers, which manuals name."""
_VERSION_BEFORE = re.compile(r"(?:\bv|version|release|[=<>~^])\s?$", re.IGNORECASE)


def _is_hosts_address(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 10) : match.start()]
    if _VERSION_BEFORE.search(before):
        return False
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and str(address) not in _RESOLVERS


_TEST_CARD = re.compile(
    r"4242424242424242|4111111111111111|4012888888881881|4000056655665556|5555555555554444"
    r"|5105105105105100|2223003122003222|378282246310005|371449635398431|6011111111111117"
    r"|3530111333300000"
)
"""Those that payment services publish."""


def _is_card(match: re.Match[str]) -> bool:
    """By the check digit of ISO/IEC 7812 (Luhn)."""
    digits = re.sub(r"\D", "", match.group())
    if _TEST_CARD.fullmatch(digits):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 * (number > 9) for number in doubled) % 10 == 0


def _is_bank_account(match: re.Match[str]) -> bool:
    """By the check digits of ISO 13616 (ISO 7064, MOD 97-10)."""
    account = re.sub(r"\s", "", match.group())
    if not 15 <= len(account) <= 34:
        return False
    return int("".join(str(int(one, 36)) for one in account[4:] + account[:4])) % 97 == 1


def _is_chinese_identity(match: re.Match[str]) -> bool:
    """By the check character of GB 11643 (ISO 7064, MOD 11-2)."""
    *digits, check = match.group().upper()
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(digits))
    return "10X98765432"[total % 11] == check


_PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    (
        SECRET,  # of services that came after the last release of detect-secrets
        re.compile(
            r"(?<!\w)(?:sk-|hf_|AIza|github_pat_|glpat-|gsk_|xai-|r8_|dop_v1_|dapi(?=[0-9a-f]{32}\b)"
            r"|lin_api_|shp(?:at|ca|pa|ss)_|hvs\.|ya29\.|GOCSPX-|sbp_|PMAK-|NRAK-|glsa_|sntrys_|pplx-"
            r"|nvapi-|lsv2_(?:pt|sk)_)[\w-]{20,200}"
        ),
        lambda match: is_key(match.group()),
    ),
    (
        SECRET,  # as people write it to an agent
        re.compile(
            r"(?:passwor[dt]|passphrase|mot de passe|contraseña|api[ -]?key|access key|密码)"
            r"\s{0,2}(?:is|ist|lautet|est|es|是|:|\uff1a)\s{0,2}"  # the last is a wide colon
            r"(?P<value>[^\s\"'`<>(){}\[\],;\uff0c\u3002]{8,100})",
            re.IGNORECASE,
        ),
        lambda match: is_key(match["value"]),
    ),
    (
        "e-mail address",
        re.compile(r"[\w.%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}", re.ASCII),
        _is_persons_email,
    ),
    ("IP address", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)"), _is_hosts_address),
    (
        "IP address",
        re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{1,4}(?![\w:])"),
        _is_hosts_address,
    ),
    (
        "card number",
        re.compile(
            r"(?<![\w.,])(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|35\d\d)"
            r"([ -]?)\d{4}\1\d{4}\1\d{4}(?![\w.,]?\d)"
        ),
        _is_card,
    ),
    ("card number", re.compile(r"(?<![\w.,])3[47]\d\d([ -]?)\d{6}\1\d{5}(?![\w.,]?\d)"), _is_card),
    (
        "bank account",
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"),
        _is_bank_account,
    ),
    (
        "social security number",
        re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"),
        bool,
    ),
    (
        "identity number",
        re.compile(
            r"(?<!\d)[1-8]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]"
            r"(?!\d)"
        ),
        _is_chinese_identity,
    ),
)
"""Kind, form, and which of the places of that form count. All repetitions are bounded."""
