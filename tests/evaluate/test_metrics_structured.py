"""Answers that should be JSON."""

from __future__ import annotations

import pytest

from tanren.errors import ConfigError
from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import metric_named

WANTED = '{"name": "太郎", "age": 20, "tags": ["a", "b"], "open": true}'


def row(answer: str, reference: str = WANTED) -> Answered:
    return Answered(1, (), reference, answer, "stop")


@pytest.mark.parametrize(
    ("answer", "bare", "fenced"),
    [
        (' {"a": 1}\n', 1, 1),
        ("[1, 2]", 1, 1),
        ("12", 1, 1),
        ('```json\n{"a": 1}\n```', 0, 1),
        ('Here: {"a": 1}', 0, 0),
        ('{"a": 1', 0, 0),
        ('{"a": NaN}', 0, 0),
        ('{"a": 1, "a": 2}', 0, 0),
        ("{'a': 1}", 0, 0),
        ("", 0, 0),
        ("[" * 100_000, 0, 0),
    ],
)
def test_validity(answer: str, bare: int, fenced: int) -> None:
    assert metric_named("json_valid").score(row(answer)) == bare
    assert metric_named("json_valid", fenced=True).score(row(answer)) == fenced


def test_a_fence_is_counted() -> None:
    rows = [row("```\n{}\n```"), row("{}"), row("no")]
    assert metric_named("json_valid").details(rows)["only_in_a_fence"] == 1
    assert metric_named("json_valid").value(rows) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (WANTED, 1.0),
        ('{"open": true, "tags": ["a", "b"], "age": 20.0, "name": "太郎"}', 1.0),
        ('{"name": "太郎", "age": 20, "tags": ["b", "a"], "open": true}', 3 / 5),
        ('{"name": "太郎", "age": "20", "tags": [], "open": 1}', 1 / 5),  # 1 is not true
        ('{"name": "太郎", "age": 20, "tags": ["a", "b"], "open": true, "more": 1}', 1.0),
        ("{}", 0.0),
        ("not json", 0.0),
    ],
)
def test_fields(answer: str, share: float) -> None:
    assert metric_named("json_fields").score(row(answer)) == pytest.approx(share)


def test_details_of_fields() -> None:
    rows = [row(WANTED), row('{"age": 20, "tags": ["a"], "more": {"deep": 1}}')]
    details = metric_named("json_fields").details(rows)
    assert details["per_field"] == {"age": 1.0, "name": 0.5, "open": 0.5, "tags[]": 0.75}
    assert details["all_right"] == 0.5 and details["additional_fields"] == 1


def test_a_reference_that_is_no_json_says_nothing() -> None:
    assert metric_named("json_fields").score(row("{}", "text")) is None
    assert metric_named("json_fields").score(row("{}", "12")) is None


SCHEMA = {
    "type": "object",
    "required": ["age"],
    "properties": {"age": {"type": "integer", "minimum": 0}},
}


def test_a_schema() -> None:
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    metric = metric_named("json_schema", schema=SCHEMA)
    rows = [row('{"age": 3}'), row('{"age": "3"}'), row("{}"), row("?"), row('{"age": -1}')]
    rows.append(row('{"age": -2, "more": 1}'))
    assert [metric.score(r) for r in rows] == [1, 0, 0, 0, 0, 0]
    assert metric.details(rows)["complaints"] == {
        "$.age: minimum": 2, "$.age: type": 1, "$: required": 1, "not JSON": 1,
    }  # fmt: skip


def test_a_wrong_schema_is_told_at_once_and_nothing_is_fetched() -> None:
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    with pytest.raises(ConfigError, match=r"json_schema\.schema"):
        metric_named("json_schema", schema={"type": "objekt"})
    away = metric_named("json_schema", schema={"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(ConfigError, match="write the definition into the schema"):
        away.score(row("{}"))


def test_without_the_library_the_extra_is_named() -> None:
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"tanren\[eval\]"):
            metric_named("json_schema", schema=SCHEMA)
    else:
        pytest.skip("jsonschema is installed")
