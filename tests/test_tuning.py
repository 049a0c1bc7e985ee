"""A run on a cluster, up to where it needs one."""

import asyncio
import json

import pytest

from astuner.backbone.cluster.tuning import tune
from astuner.config.load import load_mapping
from astuner.errors import ConfigError
from astuner.run_dir import RunDir
from tests.runs import make_run
from tests.test_hub import make_settings


def test_what_an_engine_refuses_is_told_without_the_secrets_that_it_quotes(tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps({"main_query": "q", "metadata": {}}) + "\n")
    reader = "task_reader__jsonl_dataset_file__"
    settings = make_settings(
        task_reader__type="jsonl_dataset_file",
        **{f"{reader}training__file_path": str(file), f"{reader}validation__file_path": str(file)},
        trainer_common__n_gpus_per_node=1,
    )
    settings["verl"] = {"monitor": {"api_key": "plain words"}, "steps": "many"}
    run = make_run(load_mapping(settings, name="test"), RunDir(root=tmp_path))

    def prepare(run, tasks):
        raise ConfigError("verl refuses the configuration: no number: 'plain words', 'many'")

    with pytest.raises(ConfigError) as caught:
        asyncio.run(tune(run, prepare))
    assert str(caught.value) == "verl refuses the configuration: no number: '***', 'many'"
    assert caught.value.__cause__ is None
