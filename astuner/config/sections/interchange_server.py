"""`astuner.interchange_server`."""

from typing import Literal

from pydantic import Field, PositiveInt

from astuner.config.section import Section


class InterchangeServerSettings(Section):
    interchange_method: Literal["ipc", "tcp"] = Field(description="Accepted from newer files.")
    interchange_server_port: int | Literal["auto"] = Field(description="Accepted from newer files.")
    num_fastapi_process: PositiveInt = Field(description="Accepted from newer files.")
    max_fastapi_threads: PositiveInt = Field(description="Accepted from newer files.")
    max_inference_tracker_threads: PositiveInt = Field(description="Accepted from newer files.")
