"""Moderators: who says of messages whether they are safe. An endpoint, or a guard model that runs
here; both fulfil `tanren.data.screen.Moderator`.
"""

from tanren.moderate.named import named_moderator

__all__ = ["named_moderator"]
