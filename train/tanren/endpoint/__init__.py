"""Chat models behind an OpenAI-compatible `/v1/chat/completions`, to be measured or to judge.

Rows leave the machine only for a host that the user's own settings name. Replies are kept by
content, so nothing is asked twice; a budget ends the work before it is exceeded; the key comes from
an environment variable and is in no file, message or log.
"""

from tanren.endpoint.cache import ReplyCache
from tanren.endpoint.client import Outcome, ask_all, ask_each
from tanren.endpoint.journal import Journal
from tanren.endpoint.reply import Conversation, Failure, Reply
from tanren.endpoint.settings import Budget, EndpointConfig, Prices, load_endpoint
from tanren.endpoint.spending import Ledger

__all__ = [
    "Budget",
    "Conversation",
    "EndpointConfig",
    "Failure",
    "Journal",
    "Ledger",
    "Outcome",
    "Prices",
    "Reply",
    "ReplyCache",
    "ask_all",
    "ask_each",
    "load_endpoint",
]
