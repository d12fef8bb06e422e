"""The dispatcher in the foreground: what happens is a line, Ctrl-C an orderly end."""

from __future__ import annotations

import threading

from tanren.cli.display import text
from tanren.cli.output import Output
from tanren.jobs.dispatch import Dispatcher
from tanren.jobs.process import Stop
from tanren.jobs.service import JobService

_LOOK_SECONDS = 0.3


def dispatch(service: JobService, output: Output, *, until_empty: bool) -> bool:
    """Work until stopped or empty; whether it was stopped. Raises UserError where another
    dispatcher works.
    """
    dispatcher = Dispatcher(service)
    stop = Stop()
    done = threading.Event()
    names = ", ".join(slot.name for slot in dispatcher.slots)
    output.console.print(text(f"working on jobs of {service.home} on {names}"), soft_wrap=True)
    teller = threading.Thread(target=_tell, args=(service, output, done), daemon=True)
    with stop.asked_by_signals():
        teller.start()
        try:
            dispatcher.run(stop, until_empty=until_empty)
        finally:
            done.set()
            teller.join()
    return stop.is_set()


def _tell(service: JobService, output: Output, done: threading.Event) -> None:
    """Say of every job when its state changes."""
    seen = {job.id: job.status for job in service.jobs.list(limit=1000).items}
    while True:
        last_look = done.wait(_LOOK_SECONDS)
        for job in reversed(service.jobs.list(limit=1000).items):
            if seen.get(job.id) != job.status:
                seen[job.id] = job.status
                result = f": {job.fine_tuned_model}" if job.status == "succeeded" else ""
                if job.error is not None:
                    result = f": {job.error.message}"
                output.console.print(text(f"{job.id} {job.status}{result}"), soft_wrap=True)
        if last_look:
            return
