"""A chat template that writes the time, with a clock that stands still.

transformers gives templates a function `strftime_now`. Where it goes on, the text of each call
differs from that of the call before, and nothing can be continued.
"""

import json
from datetime import datetime

_CLOCK = "strftime_now"
_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", *"aAwdbBmyYHIpMSfjUWVGucxXDFTRe")


def reads_clock(template: str) -> bool:
    return _CLOCK in template


def with_frozen_clock(template: str, now: datetime) -> str:
    """The template, to which it is always `now`.

    A macro takes the function's place, since transformers turns what else could be handed to a
    template into text.
    """
    written = json.dumps({f"%{name}": now.strftime(f"%{name}") for name in _DIRECTIVES})
    # The line break behind the macro is swallowed by `trim_blocks`, which templates are run with.
    return (
        f"{{% macro {_CLOCK}(format) %}}{{% set text = namespace(is_=format) %}}"
        f"{{% for directive, value in {written}.items() %}}"
        "{% set text.is_ = text.is_.replace(directive, value) %}{% endfor %}"
        "{{ text.is_ }}{% endmacro %}\n" + template
    )
