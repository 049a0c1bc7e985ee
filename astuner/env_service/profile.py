"""The tasks that an environment service has of an environment: asked once, before a run begins."""

import httpx

from astuner.env_service.answers import Unreadable, read_data, read_ids
from astuner.env_service.service_address import EnvServiceAddress


def list_task_ids(address: EnvServiceAddress, split: str) -> list[str]:
    """In the order of the server. Raises EnvServiceError where it gives none."""
    body = {"env_type": address.env_type, "messages": {}, "params": {"split": split}}
    what = f"the tasks of the split {split!r} cannot be read"
    try:
        with httpx.Client(**address.http_options()) as client:
            answer = client.post(f"{address.url}/get_env_profile", json=body)
        return read_ids(read_data(answer.status_code, answer.content))
    except httpx.RequestError as error:
        raise address.error(
            what, f"nobody answers there ({error or type(error).__name__})", address.start_advice
        ) from error
    except Unreadable as error:
        raise address.error(
            what, str(error), address.advice(answer.status_code, error.code)
        ) from None
