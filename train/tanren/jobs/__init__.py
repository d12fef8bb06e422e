"""Runs in processes of their own, side by side, and the service's queue of them.

`find_slots` says where, `Pool` hands slots out, `run_to_end` brings one run to its end from
wherever it stands, `command_to_end` does so with any other command. `queue` takes jobs, `dispatch`
brings them to their ends, `service` is the door to both and to the `store`. Nothing here imports
torch.
"""

from tanren.jobs.pool import Pool
from tanren.jobs.process import (
    GRACE_SECONDS,
    Child,
    EndState,
    RunEnd,
    Stop,
    command_to_end,
    run_to_end,
)
from tanren.jobs.slots import Slot, cores, find_slots

__all__ = [
    "GRACE_SECONDS",
    "Child",
    "EndState",
    "Pool",
    "RunEnd",
    "Slot",
    "Stop",
    "command_to_end",
    "cores",
    "find_slots",
    "run_to_end",
]
