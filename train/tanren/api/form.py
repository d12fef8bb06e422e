"""Multipart forms with one file, read as they arrive: a file's bytes go to their receiver at once,
so that neither memory nor a temporary folder ever holds them.
"""

from __future__ import annotations

import re
from email.message import Message as MailMessage
from typing import Protocol

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tanren.store.errors import InvalidRequest

_WRITTEN_AT_ONCE = 1024 * 1024
_LONGEST_VALUE = 4096
_MOST_FIELDS = 32
"""Parts of a form, fields of the same name counted each."""
_MOST_HEADERS = 16
_LONGEST_HEADER = 16_384


class Receiver(Protocol):
    def write(self, content: bytes) -> None: ...


class Form:
    """What a form held: its other fields, and the name that its file came under."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.has_file = False


async def read_form(request: Request, file_field: str, receiver: Receiver) -> Form:
    """The form, its file written to `receiver`, whichever order its fields come in.

    Raises InvalidRequest for anything else than a form, or one without that file.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 256:
        raise InvalidRequest(
            f"Expected a multipart/form-data request with a '{file_field}' field.",
            param=file_field,
            code="invalid_content_type",
        )
    reader = _Reader(boundary, file_field)
    async for chunk in request.stream():
        reader.feed(chunk)
        if reader.waiting_bytes >= _WRITTEN_AT_ONCE:
            await run_in_threadpool(receiver.write, reader.taken())
    await run_in_threadpool(receiver.write, reader.taken())
    return reader.whole()


class _Reader:
    def __init__(self, boundary: bytes, file_field: str) -> None:
        self._file_field = file_field
        self._form = Form()
        self._parts = 0
        self._waiting = bytearray()
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._text = bytearray()
        self._is_file = False
        self._ended = False
        self._parser = _parser(boundary, self)

    @property
    def waiting_bytes(self) -> int:
        return len(self._waiting)

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise _broken("it is not a multipart form as its boundary promises") from None

    def taken(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken

    def whole(self) -> Form:
        if not self._ended:
            raise _broken("it ends in the middle")
        if not self._form.has_file:
            raise InvalidRequest(
                f"Missing required parameter: '{self._file_field}'.",
                param=self._file_field,
                code="missing_required_parameter",
            )
        return self._form

    # --- what the parser calls ---

    def part_begins(self) -> None:
        self._headers = {}
        self._text = bytearray()
        self._parts += 1
        if self._parts > _MOST_FIELDS:
            raise _broken("it has too many fields")

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > _LONGEST_HEADER:
            raise _broken("a part's header is too long")

    def header_ends(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()
        if len(self._headers) > _MOST_HEADERS:
            raise _broken("a part has too many headers")

    def headers_end(self) -> None:
        name, filename = disposition(self._headers.get(b"content-disposition", b""))
        if name is None:
            raise _broken("a part has no name")
        self._field = name
        self._is_file = name == self._file_field
        if self._is_file:
            if self._form.has_file:
                raise _broken(f"it has more than one '{name}'")
            self._form.has_file = True
            self._form.filename = filename

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._waiting += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > _LONGEST_VALUE:
            raise _broken("a field that is no file is too long")

    def part_ends(self) -> None:
        if self._is_file:
            self._is_file = False
            return
        assert self._field is not None
        try:
            self._form.fields[self._field] = self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise _broken("a field is not UTF-8") from None

    def ends(self) -> None:
        self._ended = True


def _parser(boundary: bytes, reader: _Reader) -> MultipartParser:
    return MultipartParser(
        boundary,
        {
            "on_part_begin": reader.part_begins,
            "on_part_data": reader.data,
            "on_part_end": reader.part_ends,
            "on_header_field": reader.header_field,
            "on_header_value": reader.header_value,
            "on_header_end": reader.header_ends,
            "on_headers_finished": reader.headers_end,
            "on_end": reader.ends,
        },
    )


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(f"The form cannot be read: {why}.", code="invalid_form")


_QUOTED = re.compile(rb'(?:^|;)\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def disposition(header: bytes) -> tuple[str | None, str | None]:
    """Name and filename of a `Content-Disposition`. Raw UTF-8, `filename*`, `%22` for quotes as
    browsers write it, and backslashes are all met with.
    """
    found = {key.lower(): _unquoted(value) for key, value in _QUOTED.findall(header)}
    name, filename = found.get(b"name"), found.get(b"filename")
    if name is None or (filename is None and b"filename" in header):
        told = MailMessage()
        told["content-disposition"] = header.decode("latin-1").replace("\r", "").replace("\n", "")
        given = told.get_param("name", header="content-disposition")
        name = name or (given if isinstance(given, str) and given else None)
        filename = filename or told.get_filename()
    return name, filename


def _unquoted(value: bytes) -> str:
    plain = re.sub(rb'\\(["\\])', rb"\1", value)
    text = plain.decode("utf-8", errors="replace")
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
