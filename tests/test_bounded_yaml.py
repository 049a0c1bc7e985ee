"""A YAML file of a few lines cannot fill the memory or recurse for ever."""

from pathlib import Path

import pytest

from astuner.config import load_config
from astuner.config.bounded_yaml import DEEPEST
from astuner.errors import ConfigError

CONF = "astuner:\n  model: {path: m}\n  rollout: {agentscope_workflow: a.b->C}\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(text: str) -> str:
    Path("conf.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("conf.yaml"))
    return str(caught.value)


def test_aliases_of_aliases_are_bounded() -> None:
    message = fails(CONF + BOMB)
    assert message.startswith("conf.yaml:") and "use fewer aliases" in message


def test_a_chain_of_aliases_is_bounded() -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))
    assert "levels deep" in fails(CONF + chain)


@pytest.mark.parametrize(
    "text",
    [
        "my: &a\n  x: *a\n",
        "my: &a [*a]\n",
        "my: &a\n  - {b: {c: *a}}\n",
        "my: &a\n  <<: *a\n",
        "? &a [*a]\n: 1\n",
    ],
)
def test_an_anchor_around_its_own_alias_is_named(text: str) -> None:
    assert "conf.yaml:" in (message := fails(text + CONF)) and "alias of itself" in message


@pytest.mark.parametrize("depth", [DEEPEST + 1, 300, 3000])
def test_depth_is_bounded(depth: int) -> None:
    message = fails(CONF + f"my: {'[' * depth}{']' * depth}\n")
    assert message.startswith("conf.yaml") and "levels deep" in message


def test_a_file_of_the_defaults_list_is_bounded_too() -> None:
    Path("base.yaml").write_text("defaults: [deeper]\nmy: 1\n")
    Path("deeper.yaml").write_text(BOMB)
    message = fails("defaults: [base, _self_]\n" + CONF)
    assert "deeper.yaml:" in message and "use fewer aliases" in message


def test_ordinary_anchors_are_read() -> None:
    Path("conf.yaml").write_text(
        "base: &b {lr: 0.5}\n" + CONF + "  trainer_common: {optim: {<<: *b}}\nmy: [*b, *b]\n"
    )
    loaded = load_config(Path("conf.yaml"))
    assert loaded.settings.trainer_common.optim.lr == 0.5
    assert loaded.config.my == [{"lr": 0.5}, {"lr": 0.5}]
