"""That the weights behind the last step reach the explorer that is to validate them."""

# Trinity-RFT is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.trinity, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trinity", reason="Trinity-RFT is not installed")

from trinity.common.config import Config  # noqa: E402
from trinity.common.constants import RunningStatus, SyncMethod  # noqa: E402
from trinity.manager.synchronizer import Synchronizer  # noqa: E402

from astuner.backbone.trinity.known_weights import wait_until_known  # noqa: E402


def test_a_trainer_that_stops_has_let_the_synchronizer_see_its_last_weights(
    tmp_path: Path,
) -> None:
    async def version_seen_by_the_explorer() -> int:
        synchronizer = checkpointing(tmp_path)
        await synchronizer.set_trainer_status(RunningStatus.RUNNING)
        await synchronizer.set_explorer_status(RunningStatus.RUNNING)
        seen = asyncio.ensure_future(synchronizer.wait_new_model_state_dict(0))
        await asyncio.sleep(0)  # the explorer waits
        (tmp_path / "latest_state_dict_iteration.txt").write_text("3")
        assert await wait_until_known(3, synchronizer.get_latest_model_version)
        await synchronizer.set_trainer_status(RunningStatus.STOPPED)
        return await seen

    assert asyncio.run(version_seen_by_the_explorer()) == 3


def test_weights_that_never_come_hold_no_run_up(tmp_path: Path) -> None:
    async def waited() -> bool:
        latest = checkpointing(tmp_path).get_latest_model_version
        return await wait_until_known(3, latest, within_s=0)

    assert not asyncio.run(waited())


def checkpointing(folder: Path) -> Synchronizer:
    """Trinity's own, outside of Ray."""
    config = Config()
    config.checkpoint_job_dir = str(folder)
    config.synchronizer.sync_method = SyncMethod.CHECKPOINT
    return Synchronizer(config, Alive())


class Alive:
    """An actor that never ends, as far as a synchronizer asks."""

    @property
    def is_alive(self) -> Any:
        return self

    async def remote(self) -> bool:
        return True
