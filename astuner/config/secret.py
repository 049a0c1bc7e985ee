"""The one rule for what is secret in settings; files, messages and loggers show them through it.

A value is secret by the name of its key, by its own shape, or as a password in a URL; MASK stands
in its place. What else may not be shown, a caller says by `shown_as`; see `shown.py`.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from astuner.config.schema import Settings

MASK = "***"

_NAME = re.compile(
    r"""
    ( passwords? | passwd | passphrases? | secrets? | credentials? | authorization | cookies?
    | (?:^|_) (?: pass | pwd | auth | jwt | bearer )
    | (?: api | access | private | secret | auth | account | encryption | signing | signature | ssh
        | master | license | deploy | service | storage | session | client | shared ) _? keys?
    | (?: api | access | auth | bearer | hf | hub | refresh | session | github ) _? tokens
    | (?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!stop_)(?<!end_)(?<!start_)
      (?<!max_)(?<!min_)(?<!num_)(?<!per_)(?<!new_)(?<!special_)(?<!image_)(?<!video_)(?<!audio_)
      token
    ) (?: _?\d+ | _values? )* $
    """,
    re.VERBOSE,
)
"""Ends of names in lower case: `hf_token`, `x_api_key`; not `max_tokens` or `api_key_env`."""
_VARIABLE = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)*_KEYS?")
"""Environment variables: WANDB_KEY."""
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_SHAPE = re.compile(
    r"""
      \b (?: sk-[\w-]{12,} | (?:hf|gh[opsu]|glpat|npm|pypi|sk_live|rk_live|github_pat)[_-]\w{16,}
        | xox[abprs]-[\w-]{10,} | AKIA[0-9A-Z]{16} | AIza[\w-]{30,}
        | eyJ[\w-]{8,}\.[\w-]+\.[\w-]* )
    | (?<= hooks\.slack\.com/services/ ) \w+/\w+/\w+
    | (?<= /api/webhooks/ ) \d+/[\w-]+
    | (?<= [Bb]earer\ ) (?=\S*[\d=]) [\w.~+/=-]{8,}
    | (?<= [Bb]asic\ ) (?=\S*[\d=]) [\w.~+/=-]{8,}
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ A-Z]*-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
"""How the keys of well-known services look, wherever they stand."""
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)(?!\d+[/?#])(?!\$\{oc\.env:[^}]*\}@)[^\s'\"]+@")
_URL_TOKEN = re.compile(r"(://)[^\s:/@$]{12,}@")
_NAME_OF_PAIR = re.compile(r"""(?<![\w.-])([\w.-]{1,200})(?:=|["']\s*:\s*)""")
"""Of a query, a connection string, a command line or JSON, up to the value."""
_VALUE = re.compile(
    r"""
    "[^"]*" | '[^']*' | \$\{[^}]*\} | \[[^\]]*\]? | \{[^}]*\}? | (?:Bearer|Basic)\s\S+
    | [^\s&;,\#)}\]]+
    """,
    re.VERBOSE,
)
_HEADER = re.compile(r"(?P<name>[A-Za-z][\w-]*)(?P<sign>:\s*)(?P<value>\S.*)")
_FLAG = re.compile(r"(?P<name>--[A-Za-z][\w-]{0,200})(?P<sign>\s+)(?P<value>(?!-)\S+)")
_NAMED = re.compile(r"([A-Za-z][\w.-]*)['\"]?\s*[=:]")
_FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^,{}]+\}")
_MIN_HIDDEN_CHARS = 4
SHOWN_AS_IS: Mapping[str, Any] = {}


def is_secret(key: str) -> bool:
    """Whether the value of this key, dotted or not, is secret whatever it is."""
    name = re.sub(r"(\.\d+)+$", "", key).rpartition(".")[2]
    words = _CAPITAL.sub("_", re.sub(r"[\s-]+", "_", name)).lower()
    return bool(_NAME.search(words) or _VARIABLE.fullmatch(name))


def without_secrets(
    settings: Mapping[Any, Any], shown_as: Mapping[str, Any] = SHOWN_AS_IS
) -> dict[Any, Any]:
    """A copy that may be shown; `shown_as` says what to show for some dotted keys."""
    shown = _shown(settings, "", shown_as)
    assert isinstance(shown, dict)
    return shown


def shown_settings(settings: Settings, shown_as: Mapping[str, Any] = SHOWN_AS_IS) -> dict[str, Any]:
    """The typed settings as JSON that may be shown."""
    whole = {"astuner": settings.model_dump(mode="json")}
    return without_secrets(whole, shown_as)["astuner"]


def mask_text(text: str, mask: str = MASK) -> str:
    """The text without keys of known shapes, passwords in URLs, and values of secret names.

    `mask`, without backslashes, stands in their place.
    """
    text = _SHAPE.sub(mask, text)
    text = _URL_PASSWORD.sub(rf"\g<1>{mask}@", text)
    text = _URL_TOKEN.sub(rf"\g<1>{mask}@", text)
    text = _FLAG.sub(partial(_mask_pair, mask=mask), _with_masked_pairs(text, mask))
    header = _HEADER.fullmatch(text)
    return _mask_pair(header, mask) if header else text


def mask_values(
    text: str, settings: Mapping[Any, Any], shown_as: Mapping[str, Any] = SHOWN_AS_IS
) -> str:
    """What others wrote about the settings, without the values that may not be shown.

    They may quote a value far from its name. One of a few characters is left, since it stands in
    other words too.
    """
    hidden = _hidden_values(settings, without_secrets(settings, shown_as))
    for value in sorted(hidden, key=len, reverse=True):  # one may begin another
        text = text.replace(value, MASK)
    return mask_text(text)


def _hidden_values(value: Any, shown: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and isinstance(shown, Mapping):
        for key, inner in value.items():
            yield from _hidden_values(inner, shown[key])
    elif isinstance(value, list | tuple) and isinstance(shown, list | tuple):
        for inner, inner_shown in zip(value, shown, strict=True):
            yield from _hidden_values(inner, inner_shown)
    elif value != shown:
        if isinstance(value, Mapping | list | tuple):  # hidden as a whole
            for inner in value.values() if isinstance(value, Mapping) else value:
                yield from _hidden_values(inner, None)
        elif len(str(value)) >= _MIN_HIDDEN_CHARS:
            yield str(value)


def names_a_secret(text: str) -> bool:
    """Whether a secret name with "=" or ":" behind it stands anywhere in the text."""
    return any(is_secret(name) for name in _NAMED.findall(text))


def show_override(written: str) -> str:
    """One `key=value` as messages may quote it."""
    if names_a_secret(written):
        return f"{written.partition('=')[0]}={MASK}"
    return mask_text(written)


def _shown(value: Any, key: str, shown_as: Mapping[str, Any]) -> Any:
    value = shown_as.get(key, value)
    if is_secret(key):
        return value if _tells_nothing(value) else MASK
    if isinstance(value, Mapping):
        shown = {
            name: _shown(inner, f"{key}.{name}" if key else str(name), shown_as)
            for name, inner in value.items()
        }
        # A variable of a container is a mapping of its own: {name: HF_TOKEN, value: …}.
        if "value" in value and is_secret(str(value.get("name", value.get("key", "")))):
            shown["value"] = MASK
        return shown
    if isinstance(value, list | tuple):
        return [_shown(item, f"{key}.{index}", shown_as) for index, item in enumerate(value)]
    return mask_text(value) if isinstance(value, str) else value


def _tells_nothing(value: Any) -> bool:
    is_interpolation = isinstance(value, str) and _FROM_ENVIRONMENT.fullmatch(value)
    return isinstance(value, bool) or not value or bool(is_interpolation)


def _with_masked_pairs(text: str, mask: str) -> str:
    """In one pass, and pairs inside of a value that is shown have their turn too."""
    parts, at = [], 0
    for name in _NAME_OF_PAIR.finditer(text):
        if name.start() < at or not is_secret(name[1]):
            continue
        value = _VALUE.match(text, name.end())
        if value and not _FROM_ENVIRONMENT.fullmatch(value[0].strip("'\"")):
            parts.append(f"{text[at : name.end()]}{mask}")
            at = value.end()
    return "".join([*parts, text[at:]])


def _mask_pair(match: re.Match[str], mask: str) -> str:
    name, sign, value = match.group("name", "sign", "value")
    is_open = _FROM_ENVIRONMENT.fullmatch(value.strip("'\"")) or not is_secret(name)
    return match[0] if is_open else f"{name}{sign}{mask}"
