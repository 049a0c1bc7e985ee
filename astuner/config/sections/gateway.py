"""`astuner.gateway`: the model over HTTP."""

from typing import Literal

from pydantic import Field, PositiveInt

from astuner.config.section import Section


class GatewaySettings(Section):
    host: str = Field(
        min_length=1,
        description="Address that the gateway listens on; 0.0.0.0: all of the machine.",
    )
    advertised_host: str | None = Field(
        min_length=1,
        description="Host by which agents reach it; null: host, or where that is 0.0.0.0 the "
        "machine's own address.",
    )
    port: int = Field(ge=0, le=65535, description="0: any that is free.")
    max_body_bytes: PositiveInt = Field(description="Longest body of one call.")
    max_waiting_calls: PositiveInt = Field(description="Calls that may wait at the same time.")
    client_sampling: Literal["refuse", "replace"] = Field(
        description="What becomes of a call that asks for another temperature, top_p or top_k than "
        "the run's: an error, or an answer with the run's own."
    )
