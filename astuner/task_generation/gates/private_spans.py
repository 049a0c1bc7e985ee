"""Where personal data and secrets stand in a text.

Who detects what, and why (sizes with all that they need, each installed alone):

- Secrets: the detectors of detect-secrets (Apache-2.0, 9 MB) that know the form of a provider's
  key, private keys, passwords in addresses and JSON web tokens. Those that measure entropy are left
  out: they take every digest of a manual for a key. A quoted value behind a word such as `password`
  counts where it mixes letters and digits, so placeholders do not.
- Telephone numbers: phonenumberslite (Apache-2.0, 6 MB), Google's rules. In international form
  anywhere; in a national form only behind a word such as "call", since ten digits are a number of
  mathematics first.
- E-mail and IP addresses, cards, bank accounts and numbers of persons have public rules with
  checksums of a few lines; they stand in private_patterns.py.

presidio-analyzer does most of these too, but imports spaCy whatever it is asked for (375 MB, 51
packages); scrubadub had its last release in 2023 and pins libraries of 2019.

Names of people are not looked for: documents are about people as often as they expose them, and
telling these apart takes a model. What stands for nobody is no personal data: example.com and its
like (RFC 2606, RFC 6761), mailboxes of a role (RFC 2142), addresses of documentation and of private
networks (RFC 5737, RFC 3849, RFC 1918), telephone numbers kept for fiction, test cards.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from astuner.errors import ConfigError
from astuner.task_generation.gates.private_patterns import (
    SECRET,
    PrivateSpan,
    find_by_pattern,
    is_key,
)

_MIN_PASSWORD = 8
"""Characters of a quoted value that may be a password."""
_PHONE_REACH = 40
"""Characters behind a word such as "call" in which its number begins."""
_PHONE_REGIONS = ("US", "GB", "DE", "FR", "ES", "CN", "JP")
"""Whose national forms are known, as of the languages of pointing_phrases.py."""
_CALLING = re.compile(
    r"\b(?:phone|telephone|mobile|cell|call|fax|tel|telefon|handy|anruf\w{0,4}|téléphone|appele[rz]"
    r"|teléfono|móvil|llam\w{1,4})\b|电话|手机|拨打|電話|携帯",
    re.IGNORECASE,
)
_FICTIONAL = re.compile(r"55501\d\d$|207946\d{4}$")
"""Kept for fiction: 555-01XX in North America, 020 7946 XXXX by Ofcom."""
_ARMOUR_END = re.compile(r"-----END [A-Z ]{1,40}-----")


class PrivateSpanFinder:
    """Finds personal data and secrets by rules; asks nobody and sends nothing."""

    def __init__(self) -> None:
        """Raises ConfigError where a package is missing."""
        try:
            self._by_form = _detectors_by_form()
            import phonenumbers
            from detect_secrets.plugins.keyword import KeywordDetector
        except ImportError as error:
            raise ConfigError(
                "task_reader.data_generation.gates.personal_data: looking for personal data needs "
                f"packages that are not installed ({error}): pip install 'astuner[generation]', "
                "or set it to keep"
            ) from error
        self._phones = phonenumbers
        self._quoted_values = KeywordDetector().analyze_string

    def find(self, text: str) -> Sequence[PrivateSpan]:
        """By place; what overlaps is one."""
        found = sorted(
            (
                *self._find_secrets(text),
                *self._find_passwords(text),
                *self._find_phones(text),
                *find_by_pattern(text),
            ),
            key=lambda span: (span.begin, -span.end),
        )
        kept: list[PrivateSpan] = []
        for span in found:
            if not kept or span.begin >= kept[-1].end:
                kept.append(span)
            elif span.end > kept[-1].end:
                kept[-1] = PrivateSpan(begin=kept[-1].begin, end=span.end, kind=kept[-1].kind)
        return kept

    def _find_secrets(self, text: str) -> Iterator[PrivateSpan]:
        for detector in self._by_form:
            for match in (match for form in detector.denylist for match in form.finditer(text)):
                value, (begin, end) = match.group(), match.span()
                if value.startswith(("BEGIN ", "PuTTY")):
                    end = _end_of_armour(text, begin)
                elif not is_key(value) or not any(detector.analyze_string(value)):
                    continue
                yield PrivateSpan(begin=begin, end=end, kind=SECRET)

    def _find_passwords(self, text: str) -> Iterator[PrivateSpan]:
        for value in {value for line in text.splitlines() for value in self._quoted_values(line)}:
            if len(value) < _MIN_PASSWORD or " " in value or not is_key(value):
                continue
            for place in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text):
                yield PrivateSpan(begin=place.start(), end=place.end(), kind=SECRET)

    def _find_phones(self, text: str) -> Iterator[PrivateSpan]:
        if "+" in text:
            yield from self._match_phones(text, None)
        for begin in (place.end() for place in _CALLING.finditer(text)):
            near = text[begin : begin + _PHONE_REACH]
            if sum(map(str.isdigit, near)) >= 7:  # fewer are no number in any plan
                for region in _PHONE_REGIONS:
                    yield from self._match_phones(near, region, offset=begin)

    def _match_phones(
        self, text: str, region: str | None, *, offset: int = 0
    ) -> Iterator[PrivateSpan]:
        for match in self._phones.PhoneNumberMatcher(text, region):
            raw = match.raw_string
            if not _FICTIONAL.search(re.sub(r"\D", "", raw)):
                begin = match.start + (raw.startswith("(") and ")" not in raw)
                yield PrivateSpan(
                    begin=offset + begin, end=offset + match.end, kind="telephone number"
                )


def _detectors_by_form() -> Sequence[Any]:
    """Of detect-secrets, by patterns in `denylist`; none of them verifies a key by using it."""
    from detect_secrets.plugins import (
        artifactory,
        aws,
        azure_storage_key,
        basic_auth,
        discord,
        github_token,
        gitlab_token,
        jwt,
        mailchimp,
        npm,
        openai,
        private_key,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
        twilio,
    )

    return (
        artifactory.ArtifactoryDetector(),
        aws.AWSKeyDetector(),
        azure_storage_key.AzureStorageKeyDetector(),
        basic_auth.BasicAuthDetector(),
        discord.DiscordBotTokenDetector(),
        github_token.GitHubTokenDetector(),
        gitlab_token.GitLabTokenDetector(),
        jwt.JwtTokenDetector(),
        mailchimp.MailchimpDetector(),
        npm.NpmDetector(),
        openai.OpenAIDetector(),
        private_key.PrivateKeyDetector(),
        pypi_token.PypiTokenDetector(),
        sendgrid.SendGridDetector(),
        slack.SlackDetector(),
        square_oauth.SquareOAuthDetector(),
        stripe.StripeDetector(),
        telegram_token.TelegramBotTokenDetector(),
        twilio.TwilioKeyDetector(),
    )


def _end_of_armour(text: str, begin: int) -> int:
    """Of a private key that begins there; the end of the text where it is cut off."""
    end = _ARMOUR_END.search(text, begin)
    return end.end() if end else len(text)
