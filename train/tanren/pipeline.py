"""One run directory from settings to a proved adapter. `execute` reads like the recipe it is."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tanren import adapter as adapters
from tanren import attention, environment
from tanren import model as models
from tanren.artefact import CheckpointWeights, save_artefact
from tanren.batches import Row, assemble, plan
from tanren.checkpoint import trained_weights
from tanren.config import RunConfig
from tanren.costs import Costs
from tanren.energy import energy_counter, no_counter
from tanren.errors import Fault, Interrupted, OutOfMemoryError, RunError, WorkError
from tanren.estimate import idle_parameters, model_flops_per_token
from tanren.evaluate.samples import Sample, answer_samples, choose_samples
from tanren.evaluate.while_training import AnswerMetrics
from tanren.gate import Gate, changed_since, examine
from tanren.methods import Full
from tanren.preference.reference import references
from tanren.preference.trainer import PreferenceTrainer
from tanren.proof import prove, reference, require
from tanren.rundir import (
    COMPLETE,
    RunDirectory,
    missing_files,
    new_run_path,
    read_json,
    storage_errors,
    write_json,
)
from tanren.sft import Trainer
from tanren.stepwise import Step, Stepwise
from tanren.telling import Observer, Teller
from tanren.tracking import keep_inside
from tanren.verdict import evaluations, judge
from tanren.watch import Watch, interrupted_by_sigterm, stop_on_signals

ISOLATION_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
PROOF_ROWS = 4


def start(config: RunConfig, out: Path | None = None) -> RunDirectory:
    """Make the run directory. Under torchrun the first process makes it and the others get to know
    where.
    """
    rank, _ = environment.join_processes()
    if rank != 0:
        return RunDirectory(environment.everyone_gets(None))
    stem = Path(config.data.train).stem
    run = RunDirectory.create(out or new_run_path(f"{stem}-{config.method.name}"), config)
    environment.everyone_gets(str(run.path))
    return run


def execute(
    run: RunDirectory,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    until_step: int | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Carry out a run and return what result.json holds.

    With `until_step` it pauses after that optimizer step with a checkpoint, and returns where; a
    run that is there already is left as it is. One with no more steps than that simply ends.

    Raises the errors of each stage; `Interrupted` after Ctrl-C or SIGTERM, with the command that
    goes on. Whatever ends the run is an event first (T25).
    """
    rank, world = environment.join_processes()
    gc.freeze()  # the libraries' million objects stay: looking through them takes half a second
    tell = Teller(run, observer, active=rank == 0)
    claim = run.claim() if rank == 0 else contextlib.nullcontext()
    with claim, tell.reserved(), interrupted_by_sigterm():
        try:
            if until_step is not None and run.has_reached(until_step):
                return _paused(run, until_step)
            return _execute(
                run, tell, world,
                resume=resume, accept_changes=accept_changes, until_step=until_step,
            )  # fmt: skip
        except Interrupted as error:
            why = error.message.partition(" Go on with:")[0]  # the command is a field of its own
            tell("interrupted", message=why, resume=_resume_command(run))
            raise
        except KeyboardInterrupt as error:
            why = "stopped before the end"
            tell("interrupted", message=why, resume=_resume_command(run))
            raise Interrupted(f"{why}. Go on with:\n  {_resume_command(run)}") from error
        except RunError as error:
            # turned away before any work: what became of the run earlier stays true (T25)
            tell("refused", error=error.message, faults=[f.as_dict() for f in error.faults])
            raise
        except torch.OutOfMemoryError as error:
            ours = _too_little_memory(tell, error)
            tell.failed(ours)
            raise ours from error
        except BaseException as error:
            tell.failed(error)
            raise
        finally:
            gc.unfreeze()


def _too_little_memory(tell: Teller, error: torch.OutOfMemoryError) -> OutOfMemoryError:
    return OutOfMemoryError(
        "out of memory",
        [
            Fault(
                f"stage {tell.stage}",
                str(error).splitlines()[0][:160],
                "memory for it",
                "method=qlora, a smaller model, or free what else uses the device",
            )
        ],
    )


def _execute(
    run: RunDirectory,
    tell: Teller,
    world: int,
    *,
    resume: bool,
    accept_changes: bool,
    until_step: int | None,
) -> dict[str, Any]:
    checkpoint = _checkpoint(run, tell) if resume else None
    if not resume:
        _require_fresh(run)
    gate = examine(run.config(), tell=tell)
    _record(run, tell, gate, world, resume=resume, accept_changes=accept_changes)
    torch.manual_seed(gate.config.seed)
    answer_metrics = _answer_metrics(tell, gate)

    tell("stage", name="model", text=f"loading {gate.config.model.name}")
    base = models.load_base(
        gate.source, gate.config.method, gate.config.model, attention=_attention(gate)
    )
    models.set_tokens(base, gate.tokenizer, gate.renderer.facts.stop_ids)
    samples = choose_samples(gate.config, gate.renderer, models.context_length(gate.source.config))
    wanted = min(gate.config.evaluation.samples, gate.train_ledger.trained_rows)
    if gate.config.data.validation is None and len(samples) < wanted:
        text = f"{len(samples)} of {wanted} questions are asked before and after: rows with tools "
        tell("note", text=text + "or without room for an answer are left out")
    before = answer_samples(base, gate.tokenizer, gate.renderer, samples, gate.config.evaluation)

    keep_inside(gate.config.tracking, run.path)
    trainer, watch = _trainer(run, tell, gate, base, world, answer_metrics)
    del base  # the trainer alone holds it, so that it can let go of it
    tell(
        "started",
        resumed_from=int(checkpoint.name.removeprefix("step-")) if checkpoint else None,
        world_size=world,
        device=str(trainer.args.device),
        micro_batch_tokens=trainer.step.micro_batch_tokens,
        side_by_side=trainer.step.side_by_side,
        coverage=adapters.coverage(trainer.network).as_dict(),
    )
    tell("stage", name="train", text=f"{gate.plan.steps} steps")
    trainer.until_step = until_step
    with stop_on_signals(trainer):
        trainer.fit(checkpoint)
    _stop_if_asked(run, trainer)
    if until_step is not None and not _is_over(trainer):
        return _pause(run, tell, trainer)

    tell("stage", name="save", text="saving the adapter")
    best = _load_best(run, trainer, gate.config)
    folder = save_artefact(run, trainer.network, gate, initial=_initial(run, gate))
    summary = _summary(trainer, watch, gate, best)
    proof, after = _prove_and_answer(run, tell, gate, trainer, folder, samples)
    answers = _side_by_side(samples, before, after)
    tell("answers", answers=answers)
    result = {
        "run": str(run.path),
        "state": "succeeded",
        "model": gate.source.name,
        "method": gate.config.method.name,
        "objective": gate.config.objective.name,
        **summary,
        "artefact": str(folder),
        "proof": proof,
        "answers": answers,
        "world_size": world,
        "seconds": tell.seconds(),
    }
    if tell.active:
        write_json(run.result_file, result)
    tell("succeeded", result=result)
    return result


def _require_fresh(run: RunDirectory) -> None:
    """A run starts from nothing once; what an earlier attempt saved is never overwritten."""
    if any(run.checkpoints.glob("step-*")):
        raise RunError.of(
            Fault(
                str(run.checkpoints),
                "checkpoints of an earlier attempt",
                "none",
                f"go on from them: {_resume_command(run)}",
            )
        )


def _checkpoint(run: RunDirectory, tell: Teller) -> Path | None:
    """The newest complete checkpoint; None where the run was stopped before its first one.

    Damaged ones are named (T14, T34). Raises RunError when there are only damaged ones.
    """
    complete = run.complete_checkpoints()
    damaged = run.incomplete_checkpoints()
    if not complete and damaged:
        raise RunError.of(
            *[
                Fault(
                    str(path),
                    problem,
                    "a complete checkpoint",
                    f"start it anew from its settings: tanren train {run.config_file}",
                )
                for path, problems in damaged.items()
                for problem in problems
            ]
        )
    for path, problems in damaged.items():
        tell("note", text=f"{path} is left out: {problems[0]}")
    if not complete:
        tell("note", text="there is no checkpoint yet: starting with the first step")
        return None
    return complete[-1].path


def _record(
    run: RunDirectory,
    tell: Teller,
    gate: Gate,
    world: int,
    *,
    resume: bool,
    accept_changes: bool,
) -> None:
    """Write what this run works on; refuse to go on with other data or processes unless told to
    (T6).
    """
    now = environment.describe(models.device(), world_size=world)
    if resume and run.environment_file.exists() and run.data_file.exists():
        faults, remarks = environment.differences(read_json(run.environment_file), now)
        faults = [*changed_since(read_json(run.data_file), gate), *faults]
        if faults and not accept_changes:
            raise RunError.of(*faults)
        for remark in [*remarks, *(f"accepted: {fault}" for fault in faults)]:
            tell("note", text=remark)
    if tell.active:
        run.discard_staging()
        run.write_config(gate.config)
        write_json(run.data_file, gate.data_record())
        write_json(run.environment_file, now)
    tell("gate", summary=gate.as_dict())
    for warning in gate.warnings:
        tell("note", text=warning)


def _attention(gate: Gate) -> str:
    """Name of the implementation for transformers. Soft-capped logits are known to the eager one
    alone.
    """
    wanted = gate.config.model.attention
    if wanted == "auto":
        capped = gate.source.config.get("attn_logit_softcapping") is not None
        wanted = "eager" if capped else "varlen"
    return attention.register() if wanted == "varlen" else wanted


def _answer_metrics(tell: Teller, gate: Gate) -> AnswerMetrics | None:
    """What is asked at every evaluation; faults show before the model is loaded."""
    if not gate.config.evaluation.metrics:
        return None
    context = models.context_length(gate.source.config)
    made = AnswerMetrics(gate.config, gate.tokenizer, gate.renderer, context)
    for note in made.notes:
        tell("note", text=note)
    return made


def _trainer(
    run: RunDirectory,
    tell: Teller,
    gate: Gate,
    base: Any,
    world: int,
    answer_metrics: AnswerMetrics | None,
) -> tuple[Stepwise, Watch]:
    config = gate.config
    initial = run.path / "initial_adapter"
    model = adapters.add_adapter(base, gate.source, config.method, seed=config.seed)
    pad_id = int(base.generation_config.pad_token_id)
    adapters.initialise_from_data(model, config.method, _first_passes(gate, pad_id))
    if config.model.adapter is not None:
        folder = Path(config.model.adapter)
        adapters.go_on_from(model, config.method, folder, base=gate.source.fingerprint)
    if tell.active:
        with storage_errors(initial):
            adapters.save_initial(model, config.method, initial)
    environment.everyone_waits()
    models.recompute_layers(base, gate.plan.checkpointed_layers)
    watch = Watch(
        tell,
        config.evaluation,
        flops_per_token=_flops_per_token(gate, model),
        peak_flops=gate.device.peak_flops * world if gate.device.peak_flops else None,
    )
    kind = PreferenceTrainer if config.objective.name == "dpo" else Trainer
    trainer = kind(
        model=model,
        tokenizer=gate.tokenizer,
        method=config.method,
        config=config,
        run=run,
        train=gate.train,
        validation=gate.validation,
        step=Step(gate.plan.micro_batch_tokens, False, pad_id),
        learning_rate=gate.plan.learning_rate,
        dtype=getattr(torch, gate.plan.dtype),
        on_cpu=models.device().type == "cpu",
        tell=tell,
        save_weights=CheckpointWeights(run, model, gate, initial=_initial(run, gate)),
        answer_metrics=answer_metrics,
        costs=Costs(energy_counter(models.device()) if world == 1 else no_counter),
        callbacks=[watch],
    )
    watch.trainer = trainer
    _prove_step(tell, gate, trainer)
    if isinstance(trainer, PreferenceTrainer):
        _ask_reference(tell, gate, trainer)
    if models.device().type == "cuda":
        trainer.probe(_longest_rows(gate, trainer))
    return trainer, watch


def _ask_reference(tell: Teller, gate: Gate, trainer: PreferenceTrainer) -> None:
    """What every answer is compared with, before anything is trained."""
    files = [gate.train, *([gate.validation] if gate.validation is not None else [])]
    tell("stage", name="reference", text="log-probabilities of all answers before training")
    trainer.use(references(trainer, files, base=gate.source.fingerprint), gate.train)


def _first_passes(gate: Gate, pad_id: int, rows: int = 64) -> Iterator[dict[str, Any]]:
    """Model inputs of some training rows, for methods that start from data."""
    some = [Row.of(*gate.train.row(i)) for i in range(min(rows, len(gate.train)))]
    for members in plan([len(r) for r in some], gate.plan.micro_batch_tokens, side_by_side=False):
        batch = assemble(
            [some[i] for i in members], side_by_side=False, pad_id=pad_id, device=models.device()
        )
        yield {k: v for k, v in batch.model_inputs().items() if isinstance(v, torch.Tensor)}


def _flops_per_token(gate: Gate, model: nn.Module) -> float:
    if gate.shape is None:
        return 0.0
    lengths = gate.train.lengths
    return model_flops_per_token(
        gate.shape,
        adapter_parameters=_multiplied(gate, model),
        length=float((lengths.astype(float) ** 2).sum() / lengths.sum()),
        supervised_fraction=gate.train_ledger.trained_tokens / gate.train_ledger.tokens,
    )


def _multiplied(gate: Gate, model: nn.Module) -> int | None:
    """Trained numbers that one token is multiplied with; None where every weight is trained."""
    method = gate.config.method
    if isinstance(method, Full):
        return None
    assert gate.shape is not None
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained - idle_parameters(gate.shape, method.rank, method.target_parameters)


def _prove_step(tell: Teller, gate: Gate, trainer: Stepwise) -> None:
    """Show on the loaded model that our loss is its loss and that rows laid side by side stay apart
    (T16).
    """
    rows = _short_rows(gate)
    difference = trainer.prove_loss(rows)
    if not trainer.uses_own_loss:
        tell(
            "note",
            text=f"this model's logits are special (off by {difference:.1e}): its own head is used",
        )
    wanted = gate.config.training.packing
    possible = models.base_of(trainer.network).config._attn_implementation == attention.NAME
    if wanted is False or not possible:
        if wanted is True:
            tell("note", text="packing is off: it needs model.attention=varlen")
        return
    moved = trainer.prove_isolation(rows[0], rows[-1])
    apart = moved <= ISOLATION_TOLERANCE[trainer.compute_dtype]
    if apart:
        trainer.step = Step(trainer.step.micro_batch_tokens, True, trainer.step.pad_id)
    else:
        tell("note", text=f"packing is off: rows side by side move each other by {moved:.1e}")


def _longest_rows(gate: Gate, trainer: Stepwise) -> list[Any]:
    """The heaviest step there could be: as many of the longest rows as a step has."""
    longest = np.argsort(gate.row_tokens)[-gate.config.training.batch_size :]
    return [trainer.step_loader.dataset[int(i)] for i in longest]


def _short_rows(gate: Gate, tokens: int = 64) -> list[Row]:
    """Up to four training rows, shortened around their first trained token, for proofs."""
    rows = []
    for i in range(min(PROOF_ROWS, len(gate.train))):
        ids, labels = gate.train.row(i)
        first = int((labels != -100).argmax())
        begin = max(0, first - tokens // 2)
        rows.append(Row.of(ids[begin : begin + tokens], labels[begin : begin + tokens]))
    return rows


def _resume_command(run: RunDirectory) -> str:
    return f"tanren train --resume {run.path}"


def _stop_if_asked(run: RunDirectory, trainer: Stepwise) -> None:
    if trainer.stop_requested is None or trainer.state.global_step >= trainer.state.max_steps:
        return
    step = trainer.state.global_step
    raise Interrupted(
        f"stopped by {trainer.stop_requested} after step {step}; a checkpoint was saved. Go on "
        "with:\n"
        f"  {_resume_command(run)}"
    )


def _is_over(trainer: Stepwise) -> bool:
    return trainer.stopped_early or trainer.state.global_step >= trainer.state.max_steps


def _pause(run: RunDirectory, tell: Teller, trainer: Stepwise) -> dict[str, Any]:
    """The end of a run that was to go no further for now."""
    step = trainer.state.global_step
    message, command = f"paused at step {step} as asked", _resume_command(run)
    tell("interrupted", message=message, resume=command, planned=True, step=step)
    return _paused(run, step)


def _paused(run: RunDirectory, step: int) -> dict[str, Any]:
    """Of a run that has made this step, and perhaps more of them, or has ended."""
    checkpoints, state = run.complete_checkpoints(), run.state()
    return {
        "run": str(run.path),
        "state": state if state in ("succeeded", "failed") else "interrupted",
        "planned": True,
        "step": checkpoints[-1].step if checkpoints else step,
        "resume": _resume_command(run),
    }


def _load_best(run: RunDirectory, trainer: Stepwise, config: RunConfig) -> dict[str, Any] | None:
    """With validation, the best evaluation's weights become the result."""
    history = evaluations(trainer.state, config.evaluation.metric)
    if not history:
        return None
    step, value, _ = judge(history, config.evaluation)
    folder = run.checkpoints / "best"
    if config.evaluation.keep_best and step != trainer.state.global_step:
        _require_step(folder, step)
        adapters.load_weights(trainer.network, trained_weights(folder))
    return {"step": step, config.evaluation.metric: value, "kept": config.evaluation.keep_best}


def _require_step(folder: Path, step: int) -> None:
    """The saved best is whole and of that step, or the run says so instead of taking other
    weights.
    """
    problems = missing_files(folder)
    if not problems and read_json(folder / COMPLETE)["step"] != step:
        problems = [f"it is of step {read_json(folder / COMPLETE)['step']}"]
    if problems:
        raise WorkError(
            "the best checkpoint cannot be used",
            [
                Fault(
                    str(folder),
                    problems[0],
                    f"the weights of step {step}",
                    "set evaluation.keep_best=false and resume with --accept-changes for the last "
                    "ones",
                )
            ],
        )


def _initial(run: RunDirectory, gate: Gate) -> Path | None:
    folder = run.path / "initial_adapter"
    return folder if gate.config.method.initialisation in ("pissa", "olora") else None


def _summary(
    trainer: Stepwise, watch: Watch, gate: Gate, best: dict[str, Any] | None
) -> dict[str, Any]:
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    found = adapters.coverage(trainer.network)
    return {
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0), 4),
        "stopped_early": trainer.stopped_early,
        "loss": {"first": losses[0] if losses else None, "last": losses[-1] if losses else None},
        "best": best,
        "evaluations": _evaluated(trainer, best),
        "rows": gate.train_ledger.trained_rows,
        "tokens": trainer.tokens_seen,
        "trained_tokens": _trained_tokens(trainer, gate),
        "trained_parameters": found.trained,
        "all_parameters": found.total,
        "optimizer_groups": [group.as_dict() for group in trainer.groups],
        "micro_batch_tokens": trainer.step.micro_batch_tokens,
        "side_by_side": trainer.step.side_by_side,
        "learning_rate": gate.plan.learning_rate,
        "order_sha256": trainer.step_loader.step_order.sha256(_epochs(trainer)),
        **watch.costs(),
    }


def _trained_tokens(trainer: Stepwise, gate: Gate) -> int:
    """Tokens of the rows as often as each was seen, a row counting once: the sum of min(length,
    limit) over the rows times the epochs that were made.

    `tokens`, all that went through the model, differs where a template rewrites earlier turns: then
    a row is several sequences, each with the same beginning.
    """
    if gate.config.objective.name == "dpo":  # a row is its prompt with each of the two answers
        return trainer.tokens_seen
    whole, rows = int(gate.train.lengths.sum()), gate.train.row_tokens
    return trainer.tokens_seen if rows == whole else round(trainer.tokens_seen * rows / whole)


def _epochs(trainer: Stepwise) -> int:
    """Passes over the rows that the run begins, whether it ends early or not."""
    return -(-trainer.args.max_steps // len(trainer.step_loader))


def _evaluated(trainer: Stepwise, best: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the first, the best and the last evaluation measured. `seconds`: what all of them took
    that this process did (a resumed run has earlier ones).
    """
    if best is None:
        return None
    config = trainer.run_config
    rewards = ("reward_accuracy", "reward_margin") if config.objective.name == "dpo" else ()
    names = ("loss", "token_accuracy", *rewards, *config.evaluation.metrics)
    values = {name: dict(evaluations(trainer.state, name)) for name in names}
    steps = list(values["loss"])
    chosen = {"first": steps[0], "best": best["step"], "last": steps[-1]}
    return {
        "count": len(steps),
        "seconds": round(sum(trainer.evaluation_seconds), 3),
        **{
            place: {"step": step, **{name: values[name][step] for name in names}}
            for place, step in chosen.items()
        },
    }


def _prove_and_answer(
    run: RunDirectory,
    tell: Teller,
    gate: Gate,
    trainer: Stepwise,
    folder: Path,
    samples: list[Sample],
) -> tuple[dict[str, Any], list[Any]]:
    """Reload what was saved on a fresh base, prove it, and let it answer."""
    tell("stage", name="prove", text="reloading from disk and comparing")
    config = gate.config
    full = isinstance(config.method, Full)
    rows = [gate.train.row(i)[0].tolist() for i in range(min(PROOF_ROWS, len(gate.train)))]
    tensors = {} if _initial(run, gate) else adapters.saved_tensors(trainer.network)
    expected = reference(
        trainer.network, rows, adapters.saved_keys(trainer.network), tensors=tensors
    )
    trainer.release()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if full:
        fresh: Any = models.load_whole(folder)
    else:
        base = models.load_base(gate.source, config.method, config.model)
        models.set_tokens(base, gate.tokenizer, gate.renderer.facts.stop_ids)
        fresh = adapters.load_adapter(base, folder)
    dtype = next(p.dtype for p in fresh.parameters() if p.is_floating_point())
    dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else dtype
    proof = prove(expected, fresh, folder, dtype=dtype, full=full)
    if tell.active:
        write_json(run.proof_file, proof.as_dict())
    tell("proof", **proof.as_dict())
    require(proof, folder)
    tell("stage", name="answer", text="answering the same questions again")
    after = answer_samples(fresh, gate.tokenizer, gate.renderer, samples, config.evaluation)
    return proof.as_dict(), after


def _side_by_side(
    samples: list[Sample], before: list[Any], after: list[Any]
) -> list[dict[str, Any]]:
    return [
        {
            "prompt": sample.prompt,
            "reference": sample.reference,
            "before": old.text,
            "after": new.text,
            "stopped": new.finish_reason == "stop",
        }
        for sample, old, new in zip(samples, before, after, strict=True)
    ]
