"""`tanren data`: from any rows to chats worth training on."""

from __future__ import annotations

import typer

from tanren.cli.data import convert, distill, lint, quote, review, screen, split

app = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Make, split, check, screen and price training data; ask a teacher for more.

    \b
    tanren data convert kids_why.csv --user question --assistant answer --out kids_why.jsonl
    tanren data split kids_why.jsonl --counts 70,30,30
    tanren data lint train.jsonl
    """


app.command("convert")(convert.convert)
app.command("split")(split.split)
app.command("lint")(lint.lint)
app.command("distill")(distill.distill)
app.command("screen")(screen.screen)
app.command("quote")(quote.quote)
app.command("review")(review.review)
