"""Which GPUs of each machine a clustered run takes, and how many."""

import pytest
import torch

from astuner.backbone.cluster.engine_run import first_card, with_num_gpus
from astuner.config.load import load_mapping
from astuner.errors import ConfigError


def num_gpus(**common):
    content = {
        "model": {"path": "some/model"},
        "rollout": {"agentscope_workflow": "a->B"},
        "trainer_common": common,
    }
    settings = load_mapping({"astuner": content}, name="test").settings
    return with_num_gpus(settings).trainer_common.n_gpus_per_node


def test_without_a_number_a_run_takes_all_gpus_of_its_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert num_gpus() == 3


def test_a_number_of_gpus_is_kept(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert num_gpus(n_gpus_per_node=2) == 2


def test_a_machine_without_gpu_has_to_be_told_what_the_others_have(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="n_gpus_per_node=8, or train with --backbone=local"):
        num_gpus()


@pytest.mark.parametrize(
    ("shown", "card"),
    [
        (None, "0"),
        ("1", "1"),
        ("3,2", "3"),
        (" 2, 3", "2"),
    ],
)
def test_a_run_of_one_gpu_takes_the_first_that_it_is_shown(monkeypatch, shown, card):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert first_card() == card


@pytest.mark.parametrize("shown", ["", "-1", "NoDevFiles"])
def test_a_run_that_is_shown_no_gpu_is_told_why(monkeypatch, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(ConfigError, match="hides every GPU of this machine"):
        first_card()


@pytest.mark.parametrize("shown", ["GPU-6a1b", "MIG-1", "GPU-6a1b,GPU-7c2d"])
def test_a_gpu_that_is_not_named_by_its_number_is_refused(monkeypatch, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(ConfigError, match="by its number only"):
        first_card()
