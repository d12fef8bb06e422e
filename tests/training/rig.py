"""Trainers and child processes that the tests of training share.

`build_trainer` assembles what the pipeline assembles, but lets a test choose the Trainer's class
and the shape of a pass. `Child` carries a run out in a process of its own that can be signalled and
killed: forked from a server that has imported everything, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tanren import adapter as adapters
from tanren import attention
from tanren import model as models
from tanren.errors import TanrenError
from tanren.gate import Gate, examine
from tanren.rundir import RunDirectory
from tanren.sft import Step, Trainer
from tanren.watch import Watch

ADAPTER = "adapter_model.safetensors"
ROOT = Path(__file__).parent.parent.parent
PYTHONPATH = os.pathsep.join([str(ROOT / "train"), str(ROOT / "tests")])
PATIENCE_SECONDS = 180.0


# --- trainers -------------------------------------------------------------------------------------


def build_trainer(
    run: RunDirectory,
    *,
    kind: type[Trainer] = Trainer,
    side_by_side: bool = False,
    micro_batch_tokens: int | None = None,
    attention_name: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    save_weights: Callable[[Path], None] | None = None,
    prepare: Callable[[torch.nn.Module], None] | None = None,
) -> Trainer:
    """A Trainer on the run's model and data, its loss already proved; as the pipeline makes it.

    `prepare` gets the adapted model before the Trainer does.
    """
    gate = examine(run.config())
    run.write_config(gate.config)
    torch.manual_seed(gate.config.seed)
    name = attention_name or attention.register()
    base = models.load_base(gate.source, gate.config.method, gate.config.model, attention=name)
    models.set_tokens(base, gate.tokenizer, gate.renderer.facts.stop_ids)
    config = gate.config
    model = adapters.add_adapter(base, gate.source, config.method, seed=config.seed)
    if prepare is not None:
        prepare(model)
    pad_id = int(base.generation_config.pad_token_id)
    watch = Watch(run.event, config.evaluation, flops_per_token=0.0, peak_flops=None)
    trainer = kind(
        model=model,
        tokenizer=gate.tokenizer,
        method=config.method,
        config=config,
        run=run,
        tell=run.event,
        train=gate.train,
        validation=gate.validation,
        step=Step(micro_batch_tokens or gate.plan.micro_batch_tokens, side_by_side, pad_id),
        learning_rate=gate.plan.learning_rate,
        dtype=getattr(torch, gate.plan.dtype),
        on_cpu=True,
        save_weights=save_weights or (lambda folder: adapters.save_adapter(model, folder)),
        callbacks=[watch, *callbacks],
    )
    watch.trainer = trainer
    trainer.prove_loss(short_rows(gate))
    return trainer


def short_rows(gate: Gate, count: int = 4) -> list[Any]:
    from tanren.batches import Row

    return [Row.of(*gate.train.row(i)) for i in range(min(count, len(gate.train)))]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradient of every trained tensor."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.detach().clone()
    return found


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Value of every trained tensor."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference over all tensors; the names must be the same."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def give_weights_to_b(model: torch.nn.Module, scale: float = 0.05) -> None:
    """An adapter that does something: with B at zero, A has no gradient to compare."""
    source = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(parameter.shape, generator=source)
            parameter.data.copy_(values * scale)


# --- what a run left ------------------------------------------------------------------------------


def adapter_bytes(run: RunDirectory) -> bytes:
    """The result's weights as they lie on disk."""
    folder = run.adapter if run.adapter.is_dir() else run.model
    return b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))


def of_kind(run: RunDirectory, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["event"] == kind]


def steps_told(run: RunDirectory) -> dict[int, set[tuple[Any, ...]]]:
    """Step number -> everything that was ever logged about that step, time aside.

    A step that a killed process had done and a later one repeats has one entry if both agree.
    """
    told: dict[int, set[tuple[Any, ...]]] = {}
    for event in of_kind(run, "step"):
        names = ("loss", "learning_rate", "grad_norm", "tokens", "epoch", "steps")
        told.setdefault(event["step"], set()).add(tuple(event[name] for name in names))
    return told


# --- processes ------------------------------------------------------------------------------------


def forkserver() -> ForkServerContext:
    """Makes processes that are forked from a server with everything imported."""
    os.environ["PYTHONPATH"] = PYTHONPATH  # for the server, which the first child starts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tanren.pipeline", "bitsandbytes"])
    return context


@dataclass(frozen=True)
class KillAt:
    """The moment at which a process kills itself with SIGKILL: when Python is about to do `event`
    (an audit event: `os.rename`, `open`, `os.remove`, …) to a path that matches, for the nth time.
    """

    event: str
    path: str
    nth: int = 1

    def arm(self) -> None:
        left = self.nth

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if name == self.event and any(re.search(self.path, str(a)) for a in arguments):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


class Child:
    """A run in a process of its own. As a context manager it leaves no process behind."""

    def __init__(
        self,
        run: RunDirectory,
        *,
        resume: bool = False,
        accept_changes: bool = False,
        kill_at: KillAt | None = None,
    ) -> None:
        self.run = run
        self.log = run.path.parent / f"{run.name}.log"
        environment = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("TANREN_", "HF_", "OMP_"))
        }
        self.process = forkserver().Process(
            target=_carry_out,
            args=(str(run.path), str(self.log), environment, resume, accept_changes, kill_at),
            daemon=False,
        )

    def __enter__(self) -> Child:
        self._seen = len(self.run.events())
        self.process.start()
        return self

    def __exit__(self, *args: object) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        self.process.join(PATIENCE_SECONDS)
        assert self.process.exitcode is not None, f"still running: {self.said()}"
        return self.process.exitcode

    def succeed(self) -> None:
        assert self.wait() == 0, self.said()

    def said(self) -> str:
        """What it printed, tracebacks included."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event after this child's start that `wanted` accepts; each is seen once."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        ended = False
        while time.monotonic() < deadline:
            events = self.run.events()
            for event in events[self._seen :]:
                self._seen += 1
                if wanted(event):
                    return event
            if not self.process.is_alive() and not ended:
                ended = True  # once more: it may have told of it in its last moment
            elif ended:
                break
            time.sleep(0.002)
        raise AssertionError(f"no such event; exit code {self.process.exitcode}: {self.said()}")

    def wait_for_step(self, step: int) -> None:
        """Until this process has told of that step or a later one."""
        self.wait_for(lambda event: event["event"] == "step" and event["step"] >= step)


def _carry_out(
    path: str,
    log: str,
    environment: dict[str, str],
    resume: bool,
    accept_changes: bool,
    kill_at: KillAt | None,
) -> None:
    """Runs in the child."""
    gc.freeze()  # what the server imported is no garbage
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    if kill_at is not None:
        kill_at.arm()
    from tanren.pipeline import execute

    try:
        execute(RunDirectory(path), resume=resume, accept_changes=accept_changes)
    except TanrenError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)


def peak_of_measuring(path: str, answer: Connection, all_logits: bool) -> None:
    """Runs in a child: by how many bytes evaluating makes this process's largest size grow, the
    tokens that were scored, and their loss. `all_logits`: with the chunked loss switched off.
    """
    torch.set_num_threads(1)
    trainer = build_trainer(RunDirectory(path))
    assert trainer.validation is not None
    trainer.step = Step(10**6, True, trainer.step.pad_id)
    trainer._head_matches = not all_logits
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = trainer.measure(trainer.validation)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    answer.send((grown, found["tokens"], found["loss"]))


def answers_where_one_fails(rank: int, meeting: str, answer: Connection) -> None:
    """Runs in a child, one of two: what it hears when the second cannot answer its rows."""
    from tanren.errors import DataError
    from tanren.evaluate.while_training import _together

    def answers() -> dict[int, Any]:
        if rank == 1:
            raise DataError("row 7 cannot be asked")
        return {}

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    try:
        _together(answers)
        answer.send(("nothing", ""))
    except TanrenError as error:
        answer.send((type(error).__name__, error.message))
    torch.distributed.destroy_process_group()
