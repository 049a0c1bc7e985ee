"""The script that a text is written in, as a cheap sign of its language.

Languages of one script are not told apart: German and English, Chinese and Japanese.
"""

import itertools
import re
import unicodedata
from collections import Counter

MIN_SHARE = 0.3
"""Of the words that must be in the script asked for. A question in Chinese about `max_new_tokens`
has some Latin words, and one in English may name 超时; one in a wrong language has almost none."""
PLAIN_SHARE = 0.8
"""From here on a text is in one script, which a question about it should be in too."""

_WORD = re.compile(r"\w+(?:[./-]\w+)*")
"""`llm.max_new_tokens` is one."""
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA")
"""As Unicode begins the names of letters; each of these counts as a word, and all as CJK."""
_LANGUAGES = {
    "CJK": "chinese mandarin cantonese japanese 中文 日本語",
    "HANGUL": "korean 한국어",
    "CYRILLIC": "russian ukrainian bulgarian belarusian macedonian",
    "ARABIC": "arabic persian farsi urdu",
    "HEBREW": "hebrew",
    "GREEK": "greek",
    "DEVANAGARI": "hindi marathi nepali",
    "BENGALI": "bengali",
    "TAMIL": "tamil",
    "THAI": "thai",
    "LATIN": "english german french spanish italian portuguese dutch polish czech slovak swedish "
    "danish norwegian finnish hungarian romanian turkish vietnamese indonesian",
}
_SCRIPTS = {name: script for script, names in _LANGUAGES.items() for name in names.split()}


def script_of_language(language: str) -> str | None:
    """Of its English name; None for one that is not known, or is written in several."""
    known = (_SCRIPTS.get(word) for word in language.casefold().split())
    return next((script for script in known if script), None)


def script_of_text(text: str) -> str | None:
    """None for a text in several scripts, or without letters."""
    counts = _counts(text)
    script, num_words = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return script if num_words and num_words >= PLAIN_SHARE * counts.total() else None


def is_in_script(text: str, script: str) -> bool:
    """Whether `MIN_SHARE` of its words are; a text without letters is in every script."""
    counts = _counts(text)
    return counts[script] >= MIN_SHARE * counts.total()


def _counts(text: str) -> Counter[str]:
    """Script -> words."""
    counts: Counter[str] = Counter()
    for word in _WORD.findall(text):
        for script, run in itertools.groupby(filter(str.isalpha, word), _script_of):
            is_spaced = script not in _WITHOUT_SPACES
            counts[script if is_spaced else "CJK"] += 1 if is_spaced else len([*run])
    return counts


def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]
