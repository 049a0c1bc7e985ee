"""What is copied to the workers of other machines."""

from pathlib import Path

import pytest

from astuner.backbone.cluster.user_files import check_size, with_user_files
from astuner.errors import ConfigError

FOLDER = Path("/home/user/agent")


def test_on_one_machine_nothing_is_copied():
    env = {"working_dir": None, "env_vars": {"A": "1"}}
    assert with_user_files(env, folder=FOLDER, num_nodes=1) == env


def test_the_working_directory_of_a_ray_job_stays():
    assert with_user_files({"env_vars": {}}, folder=FOLDER, num_nodes=2) == {"env_vars": {}}


def test_a_folder_up_to_the_limit_is_copied():
    check_size({FOLDER / "a.py": 60, FOLDER / "b.py": 40}, folder=FOLDER, max_bytes=100)


def test_a_folder_that_is_too_big_is_refused_with_its_largest_files_first():
    sizes = {FOLDER / "agent.py": 1 << 10, FOLDER / "data" / "all.bin": 90 << 20}
    sizes[FOLDER / "more.bin"] = 20 << 20
    with pytest.raises(ConfigError) as raised:
        check_size(sizes, folder=FOLDER)
    said = str(raised.value)
    assert "3 files have 110.0 MiB, more than 100.0 MiB" in said
    assert said.index("data/all.bin (90.0 MiB)") < said.index("more.bin (20.0 MiB)")
    assert ".gitignore or .rayignore" in said
