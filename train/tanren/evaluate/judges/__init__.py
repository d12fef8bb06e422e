"""Language models as judges of answers: scores, Likert scales, yes/no rubrics, pairs.

A judge is asked for JSON with a reason. What fails or cannot be read is left out and counted, never
a zero. Everything asked is kept in `judgements.jsonl`, so that stopping costs nothing.
"""

from tanren.evaluate.judges.ask import Judge, Said, judge_at, judge_from
from tanren.evaluate.judges.local import judge_from_session
from tanren.evaluate.judges.pairs import PairJudging, PositionBias, judge_pairs
from tanren.evaluate.judges.prompt import Criterion, JudgePrompt, load_prompt, ready_prompts
from tanren.evaluate.judges.reading import Unparsable, Verdict, read_verdict
from tanren.evaluate.judges.record import Judgement
from tanren.evaluate.judges.rows import Judging, judge_rows

__all__ = [
    "Criterion",
    "Judge",
    "JudgePrompt",
    "Judgement",
    "Judging",
    "PairJudging",
    "PositionBias",
    "Said",
    "Unparsable",
    "Verdict",
    "judge_at",
    "judge_from",
    "judge_from_session",
    "judge_pairs",
    "judge_rows",
    "load_prompt",
    "read_verdict",
    "ready_prompts",
]
