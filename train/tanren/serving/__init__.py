"""Which servers take an adapter without merging: said before training and again at export (T15).

A server that reads `adapter_config.json` in part applies other numbers than were trained, mostly
without an error. This room imports no torch.
"""

from tanren.serving.facts import (
    CONFIG,
    WEIGHTS,
    AdapterFacts,
    adapter_settings,
    tensor_shapes,
)
from tanren.serving.servers import (
    MERGED,
    SERVERS,
    SGLANG,
    VLLM,
    VLLM_RANKS,
    Obstacle,
    Server,
    ServingVerdict,
    verdict,
    verdicts,
)

__all__ = [
    "CONFIG",
    "MERGED",
    "SERVERS",
    "SGLANG",
    "VLLM",
    "VLLM_RANKS",
    "WEIGHTS",
    "AdapterFacts",
    "Obstacle",
    "Server",
    "ServingVerdict",
    "adapter_settings",
    "tensor_shapes",
    "verdict",
    "verdicts",
]
