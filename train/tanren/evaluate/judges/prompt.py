"""What a judge is asked: a YAML file of the user's, or one of the ready ones.

    name: helpful-ja
    language: ja
    mode: rubric                     # score (0-100), likert (1-5), rubric (yes/no), pairwise
    criteria:
      - {name: helpful, question: ...}
    system: ...
    prompt: |
      {{ question }} {{ answer }} {{ json_form }}

`system` and `prompt` are Jinja templates, run in a sandbox. Placeholders: `question`, `answer`,
`answer_b` (pairwise), `reference` (may be empty), `criteria`, `json_form` (what to write back).
What the rows say is put between marks that it cannot contain, whatever the template does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from tanren.config import read_yaml
from tanren.endpoint.checked import Strict, checked
from tanren.errors import ConfigError, Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.judges.scale import SCALES, Mode, Scale
from tanren.strict_json import close_match

Placed = Literal["question", "answer", "answer_b", "reference"]
_DATA: tuple[Placed, ...] = ("question", "answer", "answer_b", "reference")
_PLACEHOLDERS = (*_DATA, "criteria", "json_form")
_MARK_LETTERS = 16
REASON = "reason"


class Criterion(Strict):
    """One thing to judge."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Key in the judge's JSON and in results."
    )
    question: str = Field(min_length=1, description="What to judge, in the prompt's language.")


class JudgePrompt(Strict):
    """What a judge is asked, and on which scale it answers."""

    name: str = Field(min_length=1, description="Name in results.")
    language: str = Field("en", description="Language of the prompt, such as en or ja.")
    mode: Mode = Field(
        description="score: 0 to 100. likert: 1 to 5. rubric: yes or no. pairwise: which of two "
        "answers is better, asked in both orders."
    )
    criteria: Annotated[tuple[Criterion, ...], Field(strict=False, min_length=1)] = Field(
        description="What is judged, each on its own."
    )
    system: str = Field("", description="Template of the system message; empty: none is sent.")
    prompt: str = Field(min_length=1, description="Template of the user's message.")

    @property
    def scale(self) -> Scale:
        return SCALES[self.mode]

    @property
    def sha256(self) -> str:
        """Digest of all that decides what is asked and how it is read."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def json_form(self) -> str:
        """What the judge writes back; the reason comes first, so that it leads to the verdict."""
        values = [f'"{criterion.name}": {self.scale.form}' for criterion in self.criteria]
        return "{" + ", ".join([f'"{REASON}": "..."', *values]) + "}"

    def messages(self, texts: Mapping[Placed, str]) -> list[dict[str, str]]:
        """The conversation that a judge is sent. `texts` is data: never run, always marked."""
        mark = _mark(texts.values())
        placed: dict[str, str] = {n: _marked(self._label(n), texts.get(n, ""), mark) for n in _DATA}
        values: dict[str, Any] = {
            **placed,
            "criteria": self.criteria,
            "json_form": self.json_form,
        }
        contents = {
            role: _ENGINE.from_string(template).render(values).strip()
            for role, template in (("system", self.system), ("user", self.prompt))
        }
        return [{"role": role, "content": text} for role, text in contents.items() if text]

    def _label(self, name: Placed) -> str:
        return "answer_a" if name == "answer" and self.mode == "pairwise" else name


# --- files ----------------------------------------------------------------------------------------


def ready_prompts() -> list[str]:
    """Names of the prompts that come with the package, such as `rubric.ja`."""
    names = [file.name for file in _ready_folder().iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_prompt(name_or_path: str | Path) -> JudgePrompt:
    """A ready prompt by its name, or the user's own YAML file. ConfigError with every fault."""
    name = str(name_or_path)
    if name in ready_prompts():
        with resources.as_file(_ready_folder() / f"{name}.yaml") as path:
            return _checked_prompt(read_yaml(path), name)
    if not name.endswith((".yaml", ".yml")):
        near = close_match(name, ready_prompts())
        remedy = f"did you mean {near!r}?" if near else "choose one of them, or name a YAML file"
        expected = "one of " + ", ".join(ready_prompts()) + ", or a YAML file"
        raise ConfigError.of(Fault("judge prompt", repr(name), expected, remedy))
    return _checked_prompt(read_yaml(Path(name)), name)


def _ready_folder() -> Any:
    return resources.files("tanren.evaluate.judges")


def _checked_prompt(values: Mapping[str, Any], source: str) -> JudgePrompt:
    prompt = checked(JudgePrompt, values, source=source)
    faults = list(_faults(prompt, source))
    if faults:
        raise ConfigError.of(*faults)
    return prompt


def _faults(prompt: JudgePrompt, source: str) -> Iterator[Fault]:
    used: set[str] = set()
    for field, template in (("system", prompt.system), ("prompt", prompt.prompt)):
        try:
            names = jinja2.meta.find_undeclared_variables(_ENGINE.parse(template))
        except jinja2.TemplateSyntaxError as error:
            where = f"{source} {field} line {error.lineno}"
            yield Fault(where, str(error.message), "a Jinja template", "mend the line")
            return
        for name in sorted(names - set(_PLACEHOLDERS)):
            yield _unknown_placeholder(name, f"{source} {field}")
        used |= names
    needed = ("answer", "answer_b") if prompt.mode == "pairwise" else ("answer",)
    for name in needed:
        if name not in used:
            wanted = f"{{{{ {name} }}}}"
            yield Fault(f"{source} prompt", f"no {wanted}", wanted, "place it in the text")
    names_given = [criterion.name for criterion in prompt.criteria]
    for name in sorted({n for n in names_given if names_given.count(n) > 1 or n == REASON}):
        expected = f"names that differ, none of them {REASON!r}"
        yield Fault(f"{source} criteria", repr(name), expected, "rename it")


def _unknown_placeholder(name: str, where: str) -> Fault:
    near = close_match(name, _PLACEHOLDERS)
    remedy = f"did you mean {near!r}?" if near else "remove it"
    expected = "one of " + ", ".join(_PLACEHOLDERS)
    return Fault(where, f"the placeholder {name!r}", expected, remedy)


# --- rows are data --------------------------------------------------------------------------------

_ENGINE = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def _mark(texts: Iterable[str]) -> str:
    """Letters that stand in none of the texts and are the same for the same texts, so that equal
    questions stay equal. Made from the texts themselves: nobody can write them in advance.
    """
    whole = "\0".join(sorted(texts))
    mark = ""
    while not mark or mark in whole:
        digest = hashlib.sha256((mark + whole).encode("utf-8", "surrogatepass"))
        mark = digest.hexdigest()[:_MARK_LETTERS]
    return mark


def _marked(name: str, text: str, mark: str) -> str:
    return f"<{name} {mark}>\n{text}\n</{name} {mark}>" if text or name != "reference" else ""


def texts_of(row: Answered) -> dict[Placed, str]:
    """Question, answer and reference of a row. A conversation of several turns, or with a system
    message, is the question as a whole: what is asked cannot be understood without it.
    """
    said = [m for m in row.messages if m.get("content")]
    question = row.question
    if len(said) > 1:
        question = "\n\n".join(f"[{m.get('role')}]\n{m.get('content')}" for m in said)
    return {"question": question, "answer": row.answer, "reference": row.reference}
