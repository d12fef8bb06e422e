"""A run while it works: on a terminal a bar that lives, elsewhere one plain line an event."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tanren.cli.display import count, duration, number, one_line, sparkline, text
from tanren.cli.events import describe, step_words

if TYPE_CHECKING:
    from tanren.cli.output import Output

Observer = Callable[[dict[str, Any]], None]

LOSSES_KEPT = 400
_ENDS = ("succeeded", "failed")
_STYLES = {
    "note": "yellow",
    "evaluation": "cyan",
    "early_stopping": "cyan",
    "out_of_memory": "yellow",
    "proof": "green",
    "stage": "dim",
}


@contextlib.contextmanager
def watched(console: Console) -> Iterator[Observer]:
    """An observer for `pipeline.execute` that shows events on the console."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainProgress(console)
        return
    progress = LiveProgress(console)
    with Live(
        console=console,
        get_renderable=progress.render,
        transient=True,
        refresh_per_second=8,
    ):
        yield progress


@contextlib.contextmanager
def stages(output: Output) -> Iterator[Callable[..., None]]:
    """One line of what is going on in a terminal; else a line for each stage."""
    stage = ""
    with output.errors.status("starting") as status:

        def tell(event: str, /, **fields: Any) -> None:
            nonlocal stage
            if event == "stage":
                stage = one_line(fields["text"])
                if output.errors.is_terminal:
                    status.update(text(stage))
                elif not output.json:
                    output.errors.print(text(stage), soft_wrap=True)
            elif event == "progress" and output.errors.is_terminal and fields["total"]:
                status.update(text(f"{stage}: {count(fields['done'])} of {count(fields['total'])}"))

        yield tell


class PlainProgress:
    """One line per event, never folded, so that a log can be searched line by line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event.get("event") != "progress":
            self._console.print(text(describe(event)), soft_wrap=True)


class LiveProgress:
    """A bar with the last step's figures; other events become lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = "starting"
        self._so_far = ""
        self._step: Mapping[str, Any] | None = None
        self._losses: list[float] = []
        self._spinner = Spinner("line" if console.options.ascii_only else "dots")

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "step":
            self._take_step(event)
        elif kind == "stage":
            self._stage = describe(event)
            self._so_far = ""
            self._step = None
        elif kind == "progress":
            done, total = event.get("done") or 0, event.get("total")
            share = f"{done / total:.0%} of {total:,}" if total else f"{done:,}"
            self._so_far = f"  {share} {event.get('unit')}"
        elif kind not in _ENDS:  # the command shows the end itself, in full
            self._console.print(text(describe(event), _STYLES.get(str(kind), "")))

    def _take_step(self, event: Mapping[str, Any]) -> None:
        self._step = event
        loss = event.get("loss")
        if isinstance(loss, int | float):
            self._losses = [*self._losses[-LOSSES_KEPT + 1 :], float(loss)]

    def render(self) -> RenderableType:
        if self._step is None:
            self._spinner.update(text=text(self._stage + self._so_far))
            return self._spinner
        return Group(self._bar(self._step), self._figures(self._step))

    def _bar(self, event: Mapping[str, Any]) -> RenderableType:
        step, steps = float(event.get("step") or 0), float(event.get("steps") or 1)
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        place = f"step {event.get('step')}/{event.get('steps')}"
        left = f"{step / steps:.0%}  {duration(event.get('eta_seconds'))} left"
        line.add_row(text(place, "bold"), ProgressBar(total=steps, completed=step), text(left))
        return line

    def _figures(self, event: Mapping[str, Any]) -> Text:
        bars = sparkline(self._losses, ascii_only=self._console.options.ascii_only)
        line = text(f"epoch {number(event.get('epoch'), '.2f')}  loss ")
        line.append_text(text(f"{number(event.get('loss'))} {bars}", "bold cyan"))
        rest = step_words({**event, "eta_seconds": None})
        line.append_text(text("  " + "  ".join(rest), "dim"))
        return line
