"""`astuner.gateway`: the model over HTTP."""

from typing import Annotated, Literal

from pydantic import PositiveInt, StringConstraints

from astuner.config.section import Section, UsedBy, setting

Host = Annotated[
    str, StringConstraints(pattern=r"^([\w.-]+|[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$")
]
"""A name or an address, without a scheme or a port."""


class GatewaySettings(Section):
    host: str = setting(
        UsedBy.ALL,
        "Address that the gateway listens on; 0.0.0.0: all of the machine.",
        min_length=1,
    )
    advertised_host: str | None = setting(
        UsedBy.ALL,
        "Host by which agents reach it; null: host, or where that is 0.0.0.0 the "
        "machine's own address.",
        min_length=1,
    )
    allowed_hosts: list[Host] = setting(
        UsedBy.ALL,
        "Further hosts, without a port, by which agents may call it, such as the name of a "
        "Kubernetes service; calls to any other are answered 421.",
    )
    port: int = setting(UsedBy.ALL, "0: any that is free.", ge=0, le=65535)
    max_body_bytes: PositiveInt = setting(UsedBy.ALL, "Longest body of one call.")
    max_waiting_calls: PositiveInt = setting(UsedBy.ALL, "Calls that may wait at the same time.")
    client_sampling: Literal["refuse", "replace"] = setting(
        UsedBy.ALL,
        "What becomes of a call that asks for another temperature, top_p or top_k than "
        "the run's: an error, or an answer with the run's own.",
    )
