"""Arms that differ in what their settings say and in nothing else, and what can be said of them.

`prepare.prepare` passes all arms through the gate; `carry_out.compare` trains, evaluates and
writes the report.
"""
