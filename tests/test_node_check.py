"""What the nodes of a cluster say about themselves, and which differences end a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from astuner.backbone.cluster.node_check import Gpu, NodeFacts, busy_gpus, find_differences

FIRST = NodeFacts(
    address="one",
    ip="192.0.2.1",
    python="3.11.7",
    versions={"astuner": "0.1.0", "verl": "0.9.1", "vllm": None},
    model="abc",
    sees_state=True,
    import_error=None,
    gpus=(),
)
SECOND = replace(FIRST, address="two")


def differences(*facts, is_folder=True):
    return find_differences(
        facts, model="/models/small", is_folder=is_folder, state_dir=Path("/shared/run")
    )


def test_equal_nodes_have_no_differences():
    assert differences(FIRST, SECOND) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "3.12.1"}, ["two has Python 3.12.1", "one has 3.11.7"]),
        (
            {"versions": {"astuner": "0.2.0", "verl": "0.9.1", "vllm": None}},
            ["two has astuner 0.2.0", "one has 0.1.0"],
        ),
        (
            {"versions": {"astuner": "0.1.0", "verl": None, "vllm": None}},
            ["two has verl not installed", "one has 0.9.1"],
        ),
        ({"model": None}, ["two does not have the model folder /models/small", "one has"]),
        ({"model": "def"}, ["not the same on all nodes", "one: abc, two: def"]),
        ({"sees_state": False}, ["two does not share the folder /shared/run", "with one"]),
        ({"import_error": "there is no tools.py"}, ["two cannot import", "there is no tools.py"]),
    ],
)
def test_a_difference_names_the_node_and_what_it_has(changed, said):
    (problem,) = differences(FIRST, replace(SECOND, **changed))
    assert all(part in problem for part in said)


def test_a_name_on_the_hub_needs_no_folder():
    assert differences(replace(FIRST, model=None), SECOND, is_folder=False) == []


def test_a_busy_gpu_is_named_with_its_free_memory_and_who_uses_it():
    gpu = Gpu(name="H100", num_bytes=80 << 30, num_free_bytes=30 << 30, processes=("process 7",))
    idle = replace(gpu, num_free_bytes=79 << 30)
    (problem,) = busy_gpus(replace(FIRST, gpus=(idle, gpu)))
    assert "one: GPU 1 (H100) is in use by process 7: 30 of 80 GiB are free" in problem
