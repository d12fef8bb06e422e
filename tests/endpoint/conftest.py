from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from endpoint.chat_server import ChatServer, running_chat

from tanren.endpoint import EndpointConfig, load_endpoint


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with running_chat() as running:
        yield running


@pytest.fixture
def config(chat: ChatServer) -> Callable[..., EndpointConfig]:
    """`config(concurrency=2)`: settings for the endpoint `chat`, with short waits."""

    def make(**changes: Any) -> EndpointConfig:
        values = {
            "base_url": chat.url,
            "model": "judge-1",
            "first_wait_seconds": 0.01,
            "max_tokens": 20,
            **changes,
        }
        return load_endpoint(None, values)

    return make
