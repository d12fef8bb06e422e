"""What an answer must hold to. Constraints compose: an answer is accepted when all of them hold.

    constraints:
      - length: {unit: characters, target: 100, tolerance: 5}
      - bullets: {min: 3, max: 5}
      - regex: {pattern: "。$"}                   # present: false: nothing may match
      - json_schema: {file: person.schema.json}   # or definition: {...}
      - language: ja
      - must_contain: [太郎]
      - must_not_contain: ["申し訳"]
      - python: checks.py:no_digits               # only with --allow-python
      - judge: {file: judge.yaml, at_least: 4}

Each says in words and numbers what to mend; `words` is an own Jinja text for it.
"""

from tanren.distill.constraints.base import Checked, Constraint, Measured, Problem
from tanren.distill.constraints.read import KINDS, Constraints, read_constraints

__all__ = [
    "KINDS",
    "Checked",
    "Constraint",
    "Constraints",
    "Measured",
    "Problem",
    "read_constraints",
]
