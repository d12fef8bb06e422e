"""The body of a chat completion request, and the engine's request that it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from tanren.api.messages import ROLES, read_messages
from tanren.api.wording import each, fault, joined, kind, wrong_type
from tanren.engine.wire import ChatRequest, Constraint, Target
from tanren.store.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_STOPS = 4
_INT64 = 2**63


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


# --- values of more than one form -----------------------------------------------------------------


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        expected = "one of a string or array of strings"
        raise fault(wrong_type("stop", expected, value), "invalid_type")
    if len(texts) > _MOST_STOPS:
        message = (
            f"Invalid 'stop': array too long. Expected an array with maximum length {_MOST_STOPS}, "
            f"but got an array with length {len(texts)} instead."
        )
        raise fault(message, "array_above_max_length")
    return tuple(text for text in texts if text)


def _logit_bias(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fault(wrong_type("logit_bias", "an object", value), "invalid_type")
    read = {}
    for token, bias in value.items():
        number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not re.fullmatch(r"[0-9]{1,9}", token) or not number or not -100 <= bias <= 100:
            message = (
                "Invalid 'logit_bias': expected token ids as keys and numbers from -100 to 100 as "
                "values."
            )
            raise fault(message, "invalid_value")
        read[int(token)] = float(bias)
    return read


_CHOICES = ("none", "auto", "required")


def _tool_choice(value: Any) -> str | dict[str, str] | None:
    """A word, or `{"name": ...}`."""
    if value is None or value in _CHOICES:
        return value
    if isinstance(value, str):
        message = (
            f"Invalid value for 'tool_choice': '{value[:50]}'. Supported values are: 'none', "
            "'auto', 'required'."
        )
        raise fault(message, "invalid_value")
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or value.get("type") != "function":
        expected = 'one of a string or {"type": "function", "function": {"name": ...}}'
        raise fault(wrong_type("tool_choice", expected, value), "invalid_type")
    return {"name": name}


def _function_call(value: Any) -> str | dict[str, str] | None:
    if value is None or value in ("none", "auto"):
        return value
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        message = "Invalid value for 'function_call': expected 'none', 'auto' or {\"name\": ...}."
        raise fault(message, "invalid_value")
    return {"name": name}


class Format(BaseModel):
    """`schema_` is None for text, empty for any JSON object."""

    schema_: dict[str, Any] | None


def _format(value: Any) -> Format | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fault(wrong_type("response_format", "an object", value), "invalid_type")
    form = value.get("type")
    if form == "text":
        return Format(schema_=None)
    if form == "json_object":
        return Format(schema_={})
    if form != "json_schema":
        found = f"'{form[:50]}'" if isinstance(form, str) else kind(form)
        message = (
            f"Invalid value for 'response_format.type': {found}. Supported values are: "
            "'json_object', 'json_schema', 'text'."
        )
        raise fault(message, "invalid_value", "response_format.type")
    return Format(schema_=_schema(value.get("json_schema")))


def _schema(value: Any) -> dict[str, Any]:
    place = "response_format.json_schema"
    if not isinstance(value, dict):
        raise fault(f"Missing required parameter: '{place}'.", "missing_required_parameter", place)
    name, schema = value.get("name"), value.get("schema")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = (
            f"Invalid '{place}.name': expected 1 to 64 letters, digits, underscores and dashes."
        )
        raise fault(message, "invalid_value", f"{place}.name")
    if schema is not None and not isinstance(schema, dict):
        message = wrong_type(f"{place}.schema", "an object", schema)
        raise fault(message, "invalid_type", f"{place}.schema")
    return schema or {}


# --- the body -------------------------------------------------------------------------------------


class Function(_Form):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Form):
    type: Literal["function"]
    function: Function


class StreamOptions(_Form):
    include_usage: bool | None = None


_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string", "enum": list(ROLES)},
        "content": {"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]},
        "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
    },
}
_NAMED = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}},
        },
    },
}
_TEXTS = {"type": "array", "items": {"type": "string"}, "maxItems": _MOST_STOPS}


def _any_of(*schemas: Mapping[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, {"type": "null"}]})


class ChatBody(BaseModel):
    """What is not named here is ignored, and counted."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)

    messages: Annotated[
        list[Any], Field(min_length=1), WithJsonSchema(
            {"type": "array", "minItems": 1, "items": _MESSAGE}
        ),
    ]  # fmt: skip
    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[
        tuple[str, ...], PlainValidator(_stop), _any_of({"type": "string"}, _TEXTS)
    ] = ()  # fmt: skip
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[
        dict[int, float],
        PlainValidator(_logit_bias),
        _any_of(
            {
                "type": "object",
                "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            }
        ),
    ] = Field(default_factory=dict)
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Annotated[
        str | dict[str, str] | None,
        PlainValidator(_tool_choice),
        _any_of({"enum": list(_CHOICES)}, _NAMED),
    ] = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Field(max_length=128)] | None = None
    function_call: Annotated[
        str | dict[str, str] | None,
        PlainValidator(_function_call),
        _any_of({"enum": ["none", "auto"]}, {"type": "object", "required": ["name"]}),
    ] = None
    response_format: Annotated[
        Format | None,
        PlainValidator(_format),
        _any_of({"type": "object", "required": ["type"]}),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatBody:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            message = (
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not "
                "supported."
            )
            raise fault(message, "invalid_parameter_combination", "max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
            raise fault(message, "invalid_parameter_combination", "top_logprobs")
        if self.stream_options is not None and not self.stream:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise fault(message, "invalid_parameter_combination", "stream_options")
        if self.tools and self.functions:
            message = "Only one of 'tools' and the deprecated 'functions' may be given."
            raise fault(message, "invalid_parameter_combination", "functions")
        self._choice_is_there()
        return self

    def _choice_is_there(self) -> None:
        param = "function_call" if self.functions else "tool_choice"
        choice = self.choice
        if choice is not None and choice not in ("none", "auto") and not self.functions_given:
            param = "function_call" if self.function_call is not None else "tool_choice"
            message = f"Invalid value for '{param}': '{param}' is only allowed when 'tools' are "
            raise fault(message + "specified.", "invalid_value", param)
        if isinstance(choice, dict) and choice["name"] not in self.names:
            message = f"Tool choice '{choice['name'][:64]}' not found in 'tools' parameter."
            raise fault(f"Invalid value for '{param}': {message}", "invalid_value", param)
        if self.wants_json and self.functions_given and choice in (None, "auto"):
            message = (
                "Invalid value for 'response_format': beside 'tools' it needs tool_choice 'none' "
                "here: one answer cannot be held to a schema and be free to call functions."
            )
            raise fault(message, "invalid_parameter_combination", "response_format")

    # --- what it means ---

    @property
    def functions_given(self) -> list[Function]:
        return self.functions or [tool.function for tool in self.tools or ()]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(function.name for function in self.functions_given)

    @property
    def choice(self) -> str | dict[str, str] | None:
        return self.function_call if self.functions else self.tool_choice or self.function_call

    @property
    def wants_json(self) -> bool:
        return self.response_format is not None and self.response_format.schema_ is not None

    @property
    def legacy(self) -> bool:
        """Whether calls are to be told as `function_call`."""
        return bool(self.functions)

    @property
    def one_call(self) -> bool:
        return self.legacy or self.parallel_tool_calls is False or isinstance(self.choice, dict)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage is True

    def constraint(self) -> Constraint | None:
        if isinstance(self.choice, dict):
            return Constraint("tools", tools=(self.choice["name"],), parallel=False)
        if self.choice == "required":
            return Constraint("tools", tools=self.names, parallel=not self.one_call)
        if self.wants_json:
            assert self.response_format is not None
            return Constraint("json", schema=self.response_format.schema_ or {})
        return None


def read_chat(raw: Mapping[str, Any]) -> tuple[ChatBody, tuple[dict[str, Any], ...]]:
    """The body and its messages. Raises InvalidRequest with every fault."""
    faults = []
    body = None
    try:
        body = ChatBody.model_validate(raw)
    except ValidationError as error:
        faults = each(error.errors())
    given = raw.get("messages")
    messages, wrong = read_messages(given if isinstance(given, list) else [])
    if faults or wrong or body is None:
        message, param, code = joined([*faults, *wrong])
        raise InvalidRequest(message, param=param, code=code)
    return body, messages


def engine_request(
    identity: str, body: ChatBody, messages: tuple[dict[str, Any], ...], target: Target
) -> ChatRequest:
    """With `tool_choice: none` the functions are not shown to the model either."""
    told = self_described(body) if body.choice != "none" else None
    return ChatRequest(
        id=identity,
        target=target,
        messages=messages,
        tools=told,
        choices=body.n or 1,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=1.0 if body.temperature is None else float(body.temperature),
        top_p=1.0 if body.top_p is None else float(body.top_p),
        seed=body.seed,
        stop=body.stop,
        presence_penalty=float(body.presence_penalty or 0),
        frequency_penalty=float(body.frequency_penalty or 0),
        logit_bias=body.logit_bias,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=body.constraint(),
        read_tools=told is not None,
    )


def self_described(body: ChatBody) -> tuple[dict[str, Any], ...] | None:
    """The functions as templates show them; None: there are none."""
    shown = [
        {"type": "function", "function": function.model_dump(exclude_none=True)}
        for function in body.functions_given
    ]
    return tuple(shown) or None
