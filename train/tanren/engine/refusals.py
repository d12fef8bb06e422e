"""What is said to a request that is not answered, or not to its end."""

from __future__ import annotations

from tanren.engine.answer import Answer, Question
from tanren.engine.wire import ChatRequest, Failed
from tanren.errors import TanrenError, WorkError


def failed(request_id: str, why: str) -> Failed:
    return Failed(request_id, "engine", why)


def busy(request: ChatRequest, waiting: int) -> Failed:
    message = f"The engine is busy: {waiting} requests are waiting. Try again later."
    return Failed(request.id, "busy", message, code="rate_limit_exceeded")


def same_id(request: ChatRequest) -> Failed:
    return Failed(request.id, "engine", f"A request with the id {request.id} is being answered.")


def no_model(request: ChatRequest, error: TanrenError) -> Failed:
    return Failed(request.id, "model", _words(error), param="model", code="model_not_usable")


def not_rendered(request: ChatRequest, error: TanrenError) -> Failed:
    """The template refuses the messages, or the constraint cannot be kept."""
    where = error.faults[0].where if error.faults else ""
    known = ("tools", "tool_choice", "response_format")
    param = next((name for name in known if where.startswith(name)), "messages")
    return Failed(request.id, "request", _words(error), param=param)


def no_tools(request: ChatRequest) -> Failed:
    message = (
        "This model's chat template has no known form for tool calls. Choose a model that was made "
        'for tools, or leave tools away (or set tool_choice to "none").'
    )
    return Failed(request.id, "request", message, param="tools")


def too_long(request: ChatRequest, tokens: int, context: float) -> Failed:
    if not tokens:
        return Failed(request.id, "request", "The prompt is empty.", param="messages")
    message = (
        f"This model's maximum context length is {context:.0f} tokens. However, your messages "
        f"resulted in {tokens} tokens. Please reduce the length of the messages."
    )
    return Failed(request.id, "request", message, param="messages", code="context_length_exceeded")


def no_memory(question: Question, hopeless: bool) -> str:
    if hopeless:
        return (
            f"The device has too little memory for {len(question.prompt)} prompt tokens and up to "
            f"{question.room} new ones. Lower max_tokens or shorten the messages."
        )
    return "The device ran out of memory while this answer was being written. Try again."


def broken(error: RuntimeError) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"The model failed ({type(error).__name__}: {first})."


def not_written(answer: Answer, error: WorkError) -> Failed:
    """An answer found no next token. A form that cannot be followed is the request's fault."""
    request, matcher = answer.question.request, answer.wishes.matcher
    if matcher is None or request.constraint is None or not matcher.complaint:
        return failed(request.id, error.message)
    param = "response_format" if request.constraint.kind == "json" else "tools"
    return Failed(request.id, "request", error.message, param=param)


def not_text(request: ChatRequest) -> Failed:
    message = "The messages hold half of a surrogate pair (\\ud800 to \\udfff): no character."
    return Failed(request.id, "request", message, param="messages")


def _words(error: TanrenError) -> str:
    return "; ".join(map(str, error.faults)) or error.message
