"""`Sandbox`: runs commands that a model wrote, each alone and gone when it ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from astuner.config.sections.sandbox import SandboxSettings
from astuner.errors import SandboxError
from astuner.sandbox.following import EndedBy
from astuner.sandbox.kinds import Confinement, find_confinement
from astuner.sandbox.limits import Limits
from astuner.sandbox.order import Order, command_of
from astuner.sandbox.own_thread import in_own_thread
from astuner.sandbox.relay import GatewayPlace, relayed


class HasBaseUrl(Protocol):
    """Such as what `model_tuner.as_oai_baseurl_apikey()` returns."""

    @property
    def base_url(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxResult:
    """What came of one command."""

    exit_code: int | None
    """128 and the number of the signal that ended it; None where the sandbox ended it."""
    stdout: str
    """Its beginning, as much as astuner.sandbox.output_kb allows."""
    stderr: str
    is_timed_out: bool
    is_cut: bool
    """It wrote more than is kept."""
    ended_by: EndedBy | None
    """The limit that ended it; None where it ended by itself."""
    seconds: float


class Sandbox:
    """Where commands of others run. Any thread and event loop may use it, also several at once."""

    def __init__(self, confinement: Confinement, limits: Limits) -> None:
        self._confinement = confinement
        self._limits = limits
        self.kind = confinement.kind

    async def run(
        self,
        command: str | Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        mounts: Mapping[str, Path] | None = None,
        read_only: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
        timeout_seconds: float | None = None,
        gateway: HasBaseUrl | None = None,
    ) -> SandboxResult:
        """Run a command to its end, or to a limit, with nothing left of it afterwards.

        A text is run by the shell, a sequence as it is. `files` are written into `folder` first,
        which is a scratch folder where None is given. `mounts` are host folders that the command
        may write to, `read_only` such that it may read, by where they stand inside. It has no
        network, except that of a `gateway` it reaches host and port under the same address.
        Where this process is root, what is in `mounts` is given to the user that the command runs
        as, and what is in `read_only` must be readable for all.

        Raises SandboxError where the command cannot be run as asked. A command that fails, or is
        not found (127), is a result. Cancelled, it kills all processes of the run before it raises.
        """
        if timeout_seconds is not None and math.isnan(timeout_seconds):
            raise SandboxError("sandbox: timeout_seconds: nan is no time; give a number of seconds")
        order = Order(
            argv=command_of(command),
            files={name: _bytes(content) for name, content in (files or {}).items()},
            mounts=dict(mounts or {}),
            read_only=dict(read_only or {}),
            environment=dict(environment or {}),
            folder=folder,
            gateway=None if gateway is None else GatewayPlace.of(gateway.base_url),
            limits=self._limits
            if timeout_seconds is None
            else replace(self._limits, timeout_seconds=timeout_seconds),
        )
        try:
            async with relayed(order.gateway) as listener:
                followed = await in_own_thread(
                    lambda stop_fd: self._confinement.run(order, listener, stop_fd)
                )
        except OSError as error:
            raise SandboxError(f"sandbox: {order.argv[0]} could not be run: {error}") from error
        return SandboxResult(
            exit_code=followed.exit_code,
            stdout=followed.stdout.decode(errors="replace"),
            stderr=followed.stderr.decode(errors="replace"),
            is_timed_out=followed.ended_by == "timeout",
            is_cut=followed.is_cut,
            ended_by=followed.ended_by,
            seconds=followed.seconds,
        )


def _bytes(content: str | bytes) -> bytes:
    # Half a character, as a model may write it, is for the command to complain about.
    return content.encode(errors="surrogatepass") if isinstance(content, str) else content


def open_sandbox(settings: SandboxSettings) -> Sandbox:
    """The sandbox of these settings; which kind it is, is found out once in a process and named in
    the log. Raises ConfigError where this system permits none that is strong enough."""
    return Sandbox(find_confinement(settings), Limits.of(settings))
