"""What we say of adapters that vLLM serves, held against vLLM itself."""

from typing import Any, get_args

import pytest

from astuner.models.vllm_adapter import MAX_RANKS, config_objections, max_rank_for

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]
"""Its own warnings are not ours to mend."""
pytest.importorskip("vllm")

from vllm.config.lora import LoRAConfig, MaxLoRARanks  # noqa: E402
from vllm.lora.peft_helper import PEFTHelper  # noqa: E402

SERVED = {"r": 12, "lora_alpha": 24, "target_modules": ["q_proj"]}


def test_our_ranks_are_those_of_vllm() -> None:
    assert get_args(MaxLoRARanks) == MAX_RANKS


@pytest.mark.parametrize("rank", [4, 12, 300])
def test_a_rank_between_is_served_by_the_next_one(rank: int) -> None:
    assert not config_objections({**SERVED, "r": rank}, ["q_proj"])
    largest = max_rank_for(rank)
    PEFTHelper.from_dict({**SERVED, "r": rank}).validate_legal(
        LoRAConfig(max_lora_rank=largest)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
        {"lora_bias": True},
        {"bias": "all"},
        {"layer_replication": [[0, 2]]},
        {"r": 513},
    ],
)
def test_what_vllm_refuses_we_refuse_before(changed: dict[str, Any]) -> None:
    assert config_objections({**SERVED, **changed}, ["q_proj"])
    with pytest.raises(ValueError):  # its words differ by release
        PEFTHelper.from_dict({**SERVED, **changed}).validate_legal(LoRAConfig(max_lora_rank=512))
