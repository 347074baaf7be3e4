"""What all clients of an OpenAI-compatible endpoint do alike: connect, keep the pace, know when to ask again.

Needs the extra `llm` of brushwork-critic.
"""

import os
from collections.abc import Sequence
from typing import Any

import openai
import stamina
from pyrate_limiter import GCRA, Duration, Limiter, Rate, StateBucket


class Unusable(Exception):
    """What came cannot be used, as where it is cut off or is none of what was asked for: worth asking again."""


def check_settings(settings: Any, positive: Sequence[str]) -> None:
    """See that a client can be made of these settings.

    Args:
        settings: with these attributes, and `base_url`.
        positive: names of its numbers.

    Raises:
        ValueError: a number that is not above 0, or an address without http.
    """
    if wrong := {name: getattr(settings, name) for name in positive if getattr(settings, name) <= 0}:
        raise ValueError(f"{wrong}: expected above 0; set them higher")
    if settings.base_url is not None and not settings.base_url.startswith(("http://", "https://")):
        raise ValueError(f"base_url={settings.base_url!r}: expected such as 'http://localhost:8000/v1'; add http://")


def connect(base_url: str | None, api_key_env: str, timeout: float) -> openai.OpenAI:
    """A client, which does not try again by itself.

    Args:
        base_url: None for OpenAI, which needs a key; a server of one's own may need none.
        api_key_env: name of the environment variable that holds the key.
        timeout: seconds.

    Raises:
        ValueError: there is no key for OpenAI.
    """
    key = os.environ.get(api_key_env)
    if not key and base_url is None:
        raise ValueError(
            f"the environment variable {api_key_env} is not set, and OpenAI expects a key; "
            "export it, or set base_url to a server of your own"
        )
    return openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=0)


def evenly(requests_per_minute: int) -> Limiter:
    """Lets requests go evenly spaced: endpoints count by the second, too."""
    rate = Rate(requests_per_minute, Duration.MINUTE, burst=1)
    return Limiter(StateBucket([rate], algorithm=GCRA()), buffer_ms=0)


def retrying(attempts: int, max_wait: float) -> stamina.RetryingCaller:
    """Calls again, after longer and longer, up to `max_wait` seconds."""
    return stamina.RetryingCaller(attempts=attempts, timeout=None, wait_initial=1, wait_max=max_wait)


def backoff(error: Exception, max_wait: float) -> bool | float:
    """Whether to ask again, and after how many seconds where the endpoint says so, and that is not above `max_wait`."""
    if isinstance(error, openai.APIConnectionError | Unusable):
        return True
    if not isinstance(error, openai.APIStatusError) or (error.status_code != 429 and error.status_code < 500):
        return False
    try:
        seconds = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):  # not said, or a date
        return True
    return seconds if 0 <= seconds <= max_wait else True
