"""How well does masking find personal data and secrets in traces, and leave what looks like them?

    python -m benchmarks.masking_quality             # the table
    python -m benchmarks.masking_quality --list      # also what was missed, and taken wrongly

Each planted value, and each look-alike, stands in three places of a trace: in a message, in the
arguments of a tool, and in a tool's result that is JSON in a text inside of JSON. A planted one is
found where its characters are gone from the whole trace; a look-alike is taken where they are.
Recall is the share of planted values that were found; precision the share of what was masked, by
the word that stands there, that was planted. Keys are made up from a fixed seed.
"""

import argparse
import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from astuner.trace_tasks.masking import TraceMask
from astuner.traces.private_text import PrivateMask
from astuner.traces.trace import Origin, Step, Trace, TracedToolCall

_RANDOM = random.Random(7)
_WORD = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_USER = "Maria Keller"


def _made(length: int, letters: str = _WORD) -> str:
    """With a digit and a letter, as real keys have."""
    return "a1" + "".join(_RANDOM.choices(letters, k=length - 2))


def _card(beginning: str, length: int) -> str:
    digits = beginning + "".join(_RANDOM.choices(string.digits, k=length - len(beginning) - 1))
    doubled = [int(one) * (2 - place % 2) for place, one in enumerate(reversed(digits))]
    return digits + str(-sum(one - 9 * (one > 9) for one in doubled) % 10)


def _grouped(number: str, sign: str) -> str:
    return sign.join(number[place : place + 4] for place in range(0, len(number), 4))


def _key_block() -> str:
    lines = "\n".join(_made(64) for _ in range(6))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"


_EMAILS = (
    "maria.keller1987@gmail.com",
    "j.tanaka@mail.nifty.co.jp",
    "o'neil.pat+orders@fastmail.fm",
    "lars_b@posteo.de",
    "chen.wei@163.com",
    "ANNA@Firma-Schulz.de",
)
_PHONES = (
    "+49 30 18272720",
    "+1 212-736-5000",
    "+44 20 7219 3000",
    "+33 1 42 92 81 00",
    "+81 3-3580-3311",
    "+86 10 6552 9988",
    "+91 11 2301 2345",
    "+55 11 3091-3116",
    "+39 06 69821",
    "+34 913 90 60 00",
    "call me at (212) 736-5000",
    "Telefon: 030 18272720",
    "my phone is 020 7219 3000",
    "手机 13812345678",
    "00 49 30 18272720",
)
_ACCOUNTS = (
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "GB82 WEST 1234 5698 7654 32",
    "FR1420041010050500013M02606",
    "ES9121000418450200051332",
    "CH93 0076 2011 6238 5295 7",
    "NL91ABNA0417164300",
    "NO9386011117947",
)
_CARDS = (
    _card("4539", 16),
    _grouped(_card("5412", 16), " "),
    _card("3742", 15),
    _grouped(_card("2720", 16), "-"),
    _card("6011", 16),
    _card("3530", 16),
)
_ADDRESSES = ("85.214.132.117", "93.184.215.14", "2a00:1450:4001:81b::200e", "52.29.17.201")
_PERSONS = ("536-22-8714", "219-09-9998", "11010519491231002X")
_NAMES = (_USER, "maria keller", "Dear Maria", "Ms. Keller")
_SERVICE_KEYS = (
    f"sk-{_made(48)}",
    f"sk-proj-{_made(74)}",
    f"sk-ant-api03-{_made(93)}",
    f"hf_{_made(34)}",
    f"ghp_{_made(36)}",
    f"github_pat_{_made(22)}_{_made(59)}",
    f"glpat-{_made(20)}",
    f"AKIA{_made(16, string.ascii_uppercase + string.digits).upper()}",
    f"AIza{_made(35)}",
    f"xoxb-{_made(12, string.digits)}-{_made(24)}",
    f"https://hooks.slack.com/services/T{_made(8).upper()}/B{_made(8).upper()}/{_made(24)}",
    f"sk_live_{_made(24)}",
    f"SG.{_made(22)}.{_made(43)}",
    f"npm_{_made(36)}",
    f"pypi-AgEIcHlwaS5vcmc{_made(70)}",
    f"gsk_{_made(52)}",
    f"xai-{_made(80)}",
    f"r8_{_made(37)}",
    f"dop_v1_{_made(64, _HEX)}",
    f"dapi{_made(32, _HEX)}",
    f"lin_api_{_made(40)}",
    f"shpat_{_made(32, _HEX)}",
    f"hvs.{_made(90)}",
    f"ya29.{_made(120)}",
    f"GOCSPX-{_made(28)}",
    f"sbp_{_made(40, _HEX)}",
    f"PMAK-{_made(24, _HEX)}-{_made(34, _HEX)}",
    f"NRAK-{_made(27).upper()}",
    f"glsa_{_made(32)}_{_made(8, _HEX)}",
    f"sntrys_{_made(90)}",
    f"pplx-{_made(48)}",
    f"nvapi-{_made(64)}",
    f"lsv2_pt_{_made(32, _HEX)}_{_made(10, _HEX)}",
    f"sk-lf-{_made(8, _HEX)}-{_made(4, _HEX)}-{_made(4, _HEX)}-{_made(12, _HEX)}",
)
_SECRETS = (
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI{_made(30)}.{_made(43)}",
    f"Authorization: Bearer {_made(40)}",
    f"postgres://shop:{_made(14)}@db.shop.internal:5432/orders",
    f'{{"client_secret": "{_made(32)}"}}',
    f"export AWS_SECRET_ACCESS_KEY={_made(40)}",
    f"password: {_made(12)}",
    f"curl -u shop --token {_made(30)} https://api.shop.internal",
    f"my password is {_made(12)}",
    f"mein Passwort lautet {_made(12)}",
    f"the API key is {_made(32)}",
    _key_block(),
)
_PLANTED: dict[str, tuple[str, ...]] = {
    "email": _EMAILS,
    "phone": _PHONES,
    "bank_account": _ACCOUNTS,
    "card_number": _CARDS,
    "ip_address": _ADDRESSES,
    "social_security_number, identity_number": _PERSONS,
    "user": _NAMES,
    "secret: keys of services": _SERVICE_KEYS,
    "secret: tokens, passwords, private keys": _SECRETS,
}
_AROUND = (
    *("call me at ", "Telefon: ", "my phone is ", "手机 ", "Dear ", "Ms. "),
    *(
        "Authorization: Bearer ",
        "export AWS_SECRET_ACCESS_KEY=",
        "https://hooks.slack.com/services/",
    ),
    *("password: ", "my password is ", "the API key is ", "mein Passwort lautet "),
    *("curl -u shop --token ", " https://api.shop.internal", '{"client_secret": "', '"}'),
    *("postgres://shop:", "@db.shop.internal:5432/orders"),
)
"""What stands beside some values and is no part of them."""
_LOOK_ALIKES = (
    "order 2024-118-3391",
    "order number 4539578763621487",
    "invoice 7301928374650192",
    "tracking number 1Z999AA10123456784",
    f"commit {_made(40, _HEX)}",
    f"sha256:{_made(64, _HEX)}",
    "9f1c2d7e-4b3a-4c1d-8e2f-0a1b2c3d4e5f",
    "version 10.0.19045.3803",
    "v1.22.3.4",
    "numpy==1.26.4",
    "lodash@4.17.21",
    "2026-11-29T17:40:37.123456Z",
    "29.11.2026 17:40",
    "1,299.99 EUR",
    "ISBN 978-3-16-148410-0",
    "EAN 4006381333931",
    "1700000000000",
    "1700000000123456789",
    "chatcmpl-9xYzAbCdEf0123456789AbCd",
    "call_a1B2c3D4e5F6g7H8i9J0k1L2",
    "toolu_01A09q90qw90lq917835lq9",
    "token = tokenizer.next_token()",
    '{"max_tokens": 4096, "total_tokens": 1234}',
    '{"token": "hello", "logprob": -0.12}',
    "api_key=os.environ['OPENAI_API_KEY']",
    "password: <your password>",
    "write to support@shop-mail.de",
    "jane@example.com",
    "git@github.com:shop/agent.git",
    "192.168.0.17",
    "127.0.0.1:8080",
    "3.14159265358979",
    "52.520008, 13.404954",
    "0xdeadbeefcafebabe1234",
    "item AB12 3456 7890 1234",
    "room 12-34-5678",
    "12:30:45:12",
    "00:1a:2b:3c:4d:5e",
    "width 1920 height 1080",
    "the market in Marianske Lazne",
    "sk-learn pipeline, task-queue-worker-pool-number-12",
    "def test_user_12_gets_400_on_bad_input(): pass",
    "sort by score desc limit 100 offset 2000",
    "<|im_start|>assistant",
    "reset token was sent to you",
    "the API key is base64-encoded",
    "The password must have 12 characters",
    "call 3 tools in 20 seconds, then 450 more",
    "SELECT id, total FROM orders WHERE id = 5512345678",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One value in one place of a trace."""

    kind: str
    """Of planted values; empty for a look-alike."""
    core: str
    place: str
    is_gone: bool
    words: frozenset[str]
    """That stand in the trace for what was masked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="what was missed or taken wrongly")
    is_listed = parser.parse_args().list
    tried = list(_all_tried(PrivateMask()))
    taken = Counter(word for one in tried if not one.kind and one.is_gone for word in one.words)
    print(
        f"{'kind':<40} {'planted':>8} {'found':>6} {'wrongly':>8} {'precision':>10} {'recall':>7}"
    )
    for kind in _PLANTED:
        ours = [one for one in tried if one.kind == kind]
        words = kind.partition(":")[0].split(", ")
        _print_row(kind, ours, sum(taken[word] for word in words))
    _print_row("all", [one for one in tried if one.kind], taken.total())
    print(f"{sum(not one.kind for one in tried)} look-alikes; a wrong secret is in both rows")
    for one in tried if is_listed else ():
        if one.is_gone != bool(one.kind):
            print("missed" if one.kind else "taken wrongly", one.place, one.core, sep=" | ")


def _print_row(kind: str, planted: list[Tried], num_wrong: int) -> None:
    found = sum(one.is_gone for one in planted)
    precision = found / (found + num_wrong) if found + num_wrong else 0.0
    print(
        f"{kind:<40} {len(planted):>8} {found:>6} {num_wrong:>8} {precision:>10.3f} "
        f"{found / len(planted):>7.3f}"
    )


def _all_tried(private: PrivateMask) -> Iterator[Tried]:
    for kind, values in _PLANTED.items():
        for value in values:
            yield from _tried(private, kind, value)
    for value in _LOOK_ALIKES:
        yield from _tried(private, "", value)


def _tried(private: PrivateMask, kind: str, value: str) -> Iterator[Tried]:
    core = value
    for around in _AROUND:
        core = core.replace(around, "")
    for place, put in _PLACES.items():
        mask = TraceMask(private, key=b"benchmark")
        is_gone = not any(core in text for text in _texts(mask.masked(_trace(put(value)))))
        words = frozenset(mask.kinds)
        yield Tried(kind=kind, core=core, place=place, is_gone=is_gone, words=words)


def _in_message(value: str) -> Step:
    return Step(role="user", text=f"Hello, this is about {value} - can you look into it, please?")


def _in_arguments(value: str) -> Step:
    arguments = json.dumps({"query": value, "limit": 5, "filters": {"note": f"told: {value}"}})
    call = TracedToolCall(call_id="call_1", name="search_orders", arguments=arguments)
    return Step(role="assistant", text="", tool_calls=(call,))


def _in_nested_json(value: str) -> Step:
    inner = json.dumps({"status": "ok", "body": f"customer wrote {value}"})
    return Step(role="tool", text=json.dumps({"result": inner, "rows": [1, 2]}), name="crm")


_PLACES: dict[str, Callable[[str], Step]] = {
    "message": _in_message,
    "arguments": _in_arguments,
    "JSON in JSON": _in_nested_json,
}


def _trace(step: Step) -> Trace:
    return Trace(
        trace_id="1", steps=[step], user=_USER, origin=Origin(source="otlp", address="traces.jsonl")
    )


def _texts(value: Any) -> Iterator[str]:
    """All that stand in a trace, at any depth, and in JSON in texts."""
    if isinstance(value, str):
        yield value
        if value.startswith("{"):
            yield from _texts(json.loads(value))
    elif is_dataclass(value):
        for one in fields(value):
            yield from _texts(getattr(value, one.name))
    elif isinstance(value, dict):
        yield from _texts(list(value))
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


if __name__ == "__main__":
    main()
