"""Several adapters on one base: each computes what it did alone, whoever asks beside it."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

pytest.importorskip("peft")

from astuner.errors import BackboneError, ConfigError
from astuner.models.adapter import AdapterSettings, attach_adapter
from astuner.models.adapter_set import AdapterSet
from tests.model_servers import talking
from tests.test_model_server import load, text_of
from tests.tiny_model import make_tiny_model

RANKS = {"math": 4, "law": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and adapters on it that say other things."""
    root = tmp_path_factory.mktemp("adapters")
    make_tiny_model(root / "tiny", max_positions=256)
    for seed, (name, rank) in enumerate(RANKS.items()):
        save_adapter(root / name, root / "tiny", rank=rank, seed=seed)
    return {path.name: path for path in root.iterdir()}


def save_adapter(folder: Path, base: Path, *, rank: int, seed: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = AdapterSettings(rank=rank, alpha=None, target_modules=None, dropout=0.0)
    attach_adapter(model, settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=generator)
    model.save_pretrained(folder)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None], use_cache=False).logits


def alone(folder: Path, base: Path) -> torch.Tensor:
    """As in training: the one adapter on the module, unmerged."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_adapter(str(folder))
    return logits_of(model.eval())


def test_an_adapter_that_is_switched_on_computes_as_it_does_alone(folders):
    base = AutoModelForCausalLM.from_pretrained(folders["tiny"]).eval()
    plain = logits_of(base)
    adapters = AdapterSet(base)
    for name in RANKS:
        adapters.add(name, folders[name])
    for name in ("math", None, "law", "math", None):
        adapters.switch(name)
        expected = plain if name is None else alone(folders[name], folders["tiny"])
        assert torch.equal(logits_of(base), expected)
        assert not any(parameter.requires_grad for parameter in base.parameters())


def test_calls_for_several_adapters_at_once_get_what_each_says_alone(folders):
    served = load(str(folders["tiny"]), adapters=[(name, str(folders[name])) for name in RANKS])

    async def run() -> None:
        async with talking(served) as it:

            async def said(name: str) -> str:
                return text_of(await it.ask(model=name, temperature=0, max_tokens=20))

            names = ["tiny", *RANKS]
            alone = {name: await said(name) for name in names}
            assert len(set(alone.values())) == 3
            asked = names * 4
            assert await asyncio.gather(*map(said, asked)) == [alone[name] for name in asked]
            listed = (await it.http.get(f"{it.address}/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == names
            assert len({call.weights for call in it.seen.calls}) == 3

    asyncio.run(run())


def test_an_adapter_brings_its_base(folders):
    served = load(str(folders["law"]))
    assert [(model.name, model.base) for model in served.models] == [
        ("tiny", None),
        ("law", "tiny"),
    ]


def changed(folders: dict[str, Path], copy: Path, **config: object) -> Path:
    """The adapter `law`, which says something else of itself."""
    copy.mkdir()
    for path in folders["law"].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    written = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**written, **config}))
    return copy


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"base_model_name_or_path": "/not/there"}, "its base, /not/there, is not there"),
        ({"base_model_name_or_path": "some/other"}, "trained on some/other, which is none of"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"peft_type": "IA3"}, "only LORA can be served"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole layers"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused(folders, tmp_path, config, expected):
    wrong = changed(folders, tmp_path / "wrong", **config)
    with pytest.raises(ConfigError, match=expected):
        load(str(folders["tiny"]), adapters=[("wrong", str(wrong))])


def test_an_adapter_of_a_model_of_another_size_is_refused(folders, tmp_path):
    named = str(folders["tiny"])
    other = changed(folders, tmp_path / "other", base_model_name_or_path=named)
    config = AutoConfig.from_pretrained(folders["tiny"], hidden_size=32)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ConfigError, match=r"not for this model, whose .* has the size 32"):
        AdapterSet(model).add("other", other)


def test_a_torn_adapter_is_refused(folders, tmp_path):
    torn = changed(folders, tmp_path / "torn")
    whole = (torn / "adapter_model.safetensors").read_bytes()
    (torn / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((ConfigError, BackboneError), match="see whether the folder is whole"):
        load(str(torn))
