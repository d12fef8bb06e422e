"""The rows that a teacher is asked about: texts in a folder, prompts, or chats to answer anew.

Rows are streamed. `survey` reads them all once, with every fault, before anything is asked; `rows`
reads them again while the work goes on. A changed source gets another digest.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from tanren.chat import parse_object
from tanren.data.encoding import BROKEN_UTF8, encoding_fault, guess_encoding, marked_encoding
from tanren.data.files import open_data, shown_path
from tanren.distill.settings import DistillConfig, SourceConfig
from tanren.distill.templates import rendered, template_faults
from tanren.errors import ConfigError, DataError, Fault
from tanren.strict_json import read_json, shown

Message = Mapping[str, Any]
SUFFIXES = (".txt", ".md")
PLACEHOLDERS = ("text", "reference", "row", "file")
_EXPECTED = 'an object with "text", "prompt" or "messages"'
_NAMED = 20
"""Places of rows left out that are named."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One thing to ask. `sha256` is of what the source says, whatever is made of it. `history`
    are the turns before the question, without a system message;
    `values` is what templates and callables may read of the row. `given`: an answer that is there
    already and only has to hold to the constraints.
    """

    key: str
    position: int
    file: str
    line: int | None
    sha256: str
    system: str | None
    history: tuple[Message, ...]
    user: str
    values: Mapping[str, Any] = field(default_factory=dict)
    given: str | None = None

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The conversation that begins a try: roles and text alone."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        turns = [{"role": m["role"], "content": m.get("content", "")} for m in self.history]
        return [*system, *turns, {"role": "user", "content": self.user}]

    @property
    def prompt_sha256(self) -> str:
        return digest(self.asked)

    @property
    def place(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a whole reading found. `left_out`: by reason how many, and the first places."""

    rows: int
    sha256: str
    left_out: Mapping[str, tuple[int, tuple[str, ...]]]

    def as_dict(self) -> dict[str, Any]:
        left = {why: {"count": n, "places": list(p)} for why, (n, p) in self.left_out.items()}
        return {"rows": self.rows, "sha256": self.sha256, "left_out": left}


@dataclass(frozen=True, slots=True)
class _Raw:
    """A row before the user's template: what it says, and where."""

    file: str
    line: int | None
    text: str
    system: str | None = None
    history: tuple[Message, ...] = ()
    reference: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _LeftOut:
    why: str
    place: str


class Source:
    """`rows` may be iterated any number of times."""

    def __init__(self, config: SourceConfig, *, system: str | None, user: str) -> None:
        self._config = config
        self._system = system
        self._user = user
        self._path = Path(config.path)

    def survey(self) -> SourceFacts:
        """Reads everything. DataError with the faults of all rows."""
        whole = hashlib.sha256()
        faults: list[Fault] = []
        left: dict[str, list[str]] = {}
        rows = 0
        for item in self._limited():
            if isinstance(item, Fault):
                faults.append(item)
            elif isinstance(item, _LeftOut):
                left.setdefault(item.why, []).append(item.place)
            else:
                rows += 1
                whole.update(item.sha256.encode())
        if not rows and not faults:
            reasons = ", ".join(left) or "nothing there"
            fault = Fault(shown_path(self._path), f"no row ({reasons})", "at least one", "add some")
            raise DataError.of(fault)
        if faults:
            raise DataError.of(*faults)
        named = {why: (len(places), tuple(places[:_NAMED])) for why, places in left.items()}
        return SourceFacts(rows, whole.hexdigest(), named)

    def rows(self, facts: SourceFacts) -> Iterator[SourceRow]:
        """The rows that `survey` found. DataError, at the latest after the last one, if they are
        others by now.
        """
        whole = hashlib.sha256()
        for item in self._limited():
            if isinstance(item, Fault):
                raise DataError.of(item)
            if isinstance(item, SourceRow):
                whole.update(item.sha256.encode())
                yield item
        if whole.hexdigest() != facts.sha256:
            remedy = "wait until nothing writes to it, and begin anew in another --out"
            found, expected = "other rows than at the start", "the same while they are asked about"
            raise DataError.of(Fault(shown_path(self._path), found, expected, remedy))

    def _limited(self) -> Iterator[SourceRow | _LeftOut | Fault]:
        position = 0
        for raw in self._raw():
            if position == self._config.limit:
                return
            if isinstance(raw, _Raw):
                yield self._placed(raw, position)
                position += 1
            else:
                yield raw

    def _placed(self, raw: _Raw, position: int) -> SourceRow | Fault:
        values = {
            "text": raw.text, "reference": raw.reference, "row": raw.extra, "file": raw.file,
        }  # fmt: skip
        try:
            user = rendered(self._user, values).strip()
        except jinja2.TemplateError as error:
            where = raw.file if raw.line is None else f"{raw.file}:{raw.line}"
            expected = "what the template `user` asks for"
            return Fault(where, str(error), expected, "mend the row or the template")
        system = raw.system if self._system is None else self._system
        own = [raw.text, raw.system, list(raw.history), raw.reference, raw.extra]
        return SourceRow(
            str(position), position, raw.file, raw.line, digest(own), system, raw.history, user,
            values,
        )  # fmt: skip

    def _raw(self) -> Iterator[_Raw | _LeftOut | Fault]:
        if self._path.is_dir():
            return self._texts(sorted(_files_in(self._path)))
        if self._config.kind == "texts" or self._path.suffix.lower() in SUFFIXES:
            return self._texts([self._path])
        return _json_rows(self._path, self._config.kind)

    # --- texts ------------------------------------------------------------------------------------

    def _texts(self, files: Sequence[Path]) -> Iterator[_Raw | _LeftOut | Fault]:
        for file in files:
            name = shown_path(file)
            if file.suffix.lower() not in SUFFIXES and file != self._path:
                yield _LeftOut("no .txt or .md file", name)
                continue
            text = self._text(file)
            if isinstance(text, Fault):
                yield text
            elif not text:
                yield _LeftOut("an empty text", name)
            else:
                yield _Raw(name, None, text)

    def _text(self, file: Path) -> str | Fault:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return Fault(shown_path(file), "no such file", "a text", "correct the path")
        except OSError as error:
            found = error.strerror or "a file that cannot be read"
            return Fault(shown_path(file), found, "a text", "correct the path or its permissions")
        encoding = self._config.encoding
        try:
            text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
        except UnicodeDecodeError as error:
            return _undecodable(shown_path(file), content, encoding, error)
        return text.replace("\r\n", "\n").strip()


def source_of(config: DistillConfig, where: str) -> Source:
    """ConfigError for a template, an encoding or a kind that cannot be."""
    assert config.source is not None, "ensure_purpose came first"
    faults = list(template_faults(config.user, PLACEHOLDERS, f"{where} user"))
    try:
        codecs.lookup(config.source.encoding)
    except LookupError:
        found, expected = repr(config.source.encoding), "an encoding such as utf-8, cp932, euc_jp"
        faults.append(Fault(f"{where} source.encoding", found, expected, "correct the name"))
    is_folder = Path(config.source.path).is_dir()
    if is_folder and config.source.kind not in ("auto", "texts"):
        remedy = "write kind: texts, or name a JSONL file"
        faults.append(Fault(f"{where} source.kind", config.source.kind, "texts", remedy))
    if faults:
        raise ConfigError.of(*faults)
    return Source(config.source, system=config.system, user=config.user)


def digest(value: object) -> str:
    """sha256 (hex) of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _files_in(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden:
            yield file


def _undecodable(name: str, content: bytes, encoding: str, error: UnicodeDecodeError) -> Fault:
    """Names the encoding that it looks like, which is never used unasked."""
    guess = marked_encoding(content) or guess_encoding(content)
    if encoding != "utf-8" or guess is None or guess.name == BROKEN_UTF8:
        if encoding == "utf-8":
            return encoding_fault(name, guess, error)
        remedy = "correct source.encoding, or the file"
        return Fault(f"{name} byte {error.start + 1}", error.reason, f"text in {encoding}", remedy)
    codec = guess.name.lower().replace("-", "_")
    remedy = f"write source.encoding: {codec} if all files are"
    return Fault(name, f"what looks like {guess.shown}", "text in UTF-8", remedy)


# --- JSONL ----------------------------------------------------------------------------------------


def _json_rows(path: Path, kind: str) -> Iterator[_Raw | _LeftOut | Fault]:
    name = shown_path(path)
    for line, text in lines_of(path):
        where = f"{name}:{line}"
        if isinstance(text, Fault):
            yield text
            continue
        value, faults = read_json(text, where)
        if faults:
            yield from faults
        elif not isinstance(value, dict):
            yield Fault(where, shown(value), _EXPECTED, 'write {"text": ...}')
        elif "messages" in value:
            yield from _conversation(value, name, line, kind)
        else:
            yield _prompt(value, name, line, kind)


def lines_of(path: Path) -> Iterator[tuple[int, str | Fault]]:
    """Numbered lines of a UTF-8 file, blank ones left out; a fault for a line of other bytes."""
    with open_data(path) as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                where = f"{shown_path(path)}:{number}"
                yield number, encoding_fault(where, guess_encoding(raw), error)
                continue
            if text:
                yield number, text


def _prompt(value: dict[str, Any], name: str, line: int, kind: str) -> _Raw | _LeftOut | Fault:
    where = f"{name}:{line}"
    keys = [key for key in ("text", "prompt") if key in value]
    if len(keys) != 1 or kind == "chats":
        found = " and ".join(keys) if len(keys) > 1 else f"the keys {', '.join(value) or '(none)'}"
        expected = '"messages"' if kind == "chats" else _EXPECTED
        return Fault(where, found, expected, "name what to ask, once")
    text = value[keys[0]]
    if not isinstance(text, str):
        return Fault(f"{where} {keys[0]}", shown(text), "a text", "write it in quotes")
    if not text.strip():
        return _LeftOut("an empty text", where)
    extra = {key: inner for key, inner in value.items() if key != keys[0]}
    return _Raw(name, line, text.strip(), extra=extra)


def _conversation(
    value: dict[str, Any], name: str, line: int, kind: str
) -> Iterator[_Raw | _LeftOut | Fault]:
    """Messages that end with the user's question, or with the answer that is replaced."""
    messages, where = value["messages"], f"{name}:{line}"
    answered = _last_role(messages) == "assistant"
    if kind != "auto" and answered != (kind == "chats"):
        expected = "an assistant" if kind == "chats" else "a user"
        found = "an assistant message at the end" if answered else "a user message at the end"
        yield Fault(where, found, f"{expected} message there", "write kind: auto")
        return
    chat = {key: value[key] for key in ("messages", "tools") if key in value}
    if not answered and isinstance(messages, list):
        chat["messages"] = [*messages, {"role": "assistant", "content": "-"}]
    example = parse_object(chat, source=name, line=line)
    if isinstance(example, list):
        yield from example
        return
    if example.tools or any(m["role"] == "tool" or "tool_calls" in m for m in example.messages):
        yield _LeftOut("tools, which are not sent to teachers", where)
        return
    asked, answer = list(example.messages[:-1]), example.messages[-1]
    system = [m for m in asked if m["role"] in ("system", "developer")]
    turns = [m for m in asked if m["role"] not in ("system", "developer")]
    if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        yield _LeftOut("no question before the answer", where)
        return
    yield _Raw(
        name, line, turns[-1]["content"].strip(), "\n\n".join(m["content"] for m in system) or None,
        tuple(turns[:-1]), answer["content"] if answered else "",
        {key: inner for key, inner in value.items() if key not in ("messages", "tools")},
    )  # fmt: skip


def _last_role(messages: object) -> object:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("role") if isinstance(last, dict) else None
