"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool,
    # `main` looks for it before parsing, so that mistakes of the command line are JSON too.
    typer.Option("--json", help="One JSON document on stdout, everything else on stderr."),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run: its folder, or its name as `tanren runs` shows it."),
]
Items = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|DATA.jsonl  key.path=value...",
        help="Settings (YAML) or data (JSONL), then settings to change (see `tanren config`).",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Folder or Hugging Face name of the model. (model.name)"
    ),
]
Validation = Annotated[
    str | None,
    typer.Option(
        "--valid", metavar="V.jsonl", help="Data whose loss is measured. (data.validation)"
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="METHOD", help="How to tune; `tanren methods` lists them. (method.name)"
    ),
]
NearThreshold = Annotated[
    float,
    typer.Option(
        "--near-threshold",
        min=0.3,
        max=1.0,
        help="Jaccard similarity of runs of 5 characters from which rows are nearly alike.",
    ),
]
