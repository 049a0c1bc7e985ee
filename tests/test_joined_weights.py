"""Layers whose weights share one tensor, as a recorded pass of generation has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from astuner.models.joined_weights import JoinedLayers, can_be_joined
from tests.tiny_model import make_tiny_model


def layers(*, bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, size, bias=bias) for size in (8, 4, 5)]


@pytest.mark.parametrize("bias", [True, False])
def test_one_product_gives_what_each_layer_gives(bias: bool) -> None:
    apart, x = layers(bias=bias), torch.randn(3, 6)
    expected = [layer(x) for layer in apart]
    torch.testing.assert_close(list(JoinedLayers(apart)(x)), expected)
    torch.testing.assert_close([layer(x) for layer in apart], expected)


def test_what_training_changes_in_place_is_seen_and_there_is_no_second_copy() -> None:
    apart, x = layers(), torch.randn(3, 6)
    joined = JoinedLayers(apart)
    optimizer = torch.optim.AdamW([p for layer in apart for p in layer.parameters()], lr=0.1)
    before = joined(x)[1].detach()
    torch.cat([layer(x) for layer in apart], dim=-1).sum().backward()
    optimizer.step()
    assert not torch.equal(joined(x)[1], before)
    torch.testing.assert_close(list(joined(x)), [layer(x) for layer in apart])
    storages = {layer.weight.untyped_storage().data_ptr() for layer in apart}
    assert len(storages) == 1
    assert apart[0].weight.untyped_storage().nbytes() == 4 * 6 * (8 + 4 + 5)


def test_layers_that_lie_behind_each_other_already_are_not_moved() -> None:
    apart = layers()
    first = JoinedLayers(apart)
    second = JoinedLayers(apart)
    assert first.is_current and second.is_current
    apart[1].weight.data = apart[1].weight.data.clone()
    assert not first.is_current and not second.is_current
    assert JoinedLayers(apart).is_current and not first.is_current


def test_only_plain_layers_that_are_alike_are_joined() -> None:
    class Adapted(nn.Linear):
        pass

    first = nn.Linear(6, 4)
    for other in (
        nn.Linear(7, 4),
        nn.Linear(6, 4, bias=False),
        nn.Linear(6, 4, dtype=torch.bfloat16),
        Adapted(6, 4),
        nn.Identity(),
    ):
        assert not can_be_joined([first, other])
        with pytest.raises(ValueError, match="plain layers"):
            JoinedLayers([first, other])  # type: ignore[list-item]


def test_a_model_with_joined_weights_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "tiny")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer in model.get_decoder().layers:
        attention = layer.self_attn
        JoinedLayers([attention.q_proj, attention.k_proj, attention.v_proj])
        JoinedLayers([layer.mlp.gate_proj, layer.mlp.up_proj])
    model.save_pretrained(tmp_path / "saved")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("tiny", "saved")]
    assert sizes[0] == pytest.approx(sizes[1], abs=1000)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    assert before.keys() == loaded.keys()
    assert all(torch.equal(before[name], loaded[name]) for name in before)
