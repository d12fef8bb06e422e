"""Every rule in one table: what it finds, how bad that is, what to do, whether `--fix` does it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    severity: Severity
    finds: str
    """What is the matter, in words that follow a number of rows."""
    remedy: str
    fixed: bool = False
    """Whether `--fix` mends it without asking anybody."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_TABLE: tuple[Rule, ...] = (
    # --- characters ---
    Rule("mojibake", "error", "text in UTF-8 that was read in another encoding",
         "--fix writes the text that was meant; mend the program that read it", True),
    Rule("damaged-characters", "error", "characters lost for good (U+FFFD, or broken mojibake)",
         "take the rows from their source again and read them as what they are"),
    Rule("invisible-characters", "warning", "zero-width characters or byte order marks in the text",
         "--fix removes them: a model learns to write them", True),
    Rule("control-characters", "warning", "control characters or marks that turn the writing round",
         "remove them, or write out what they stand for"),
    Rule("no-break-space", "note", "no-break or other unusual spaces",
         "write ordinary spaces unless they are meant (French punctuation)"),
    Rule("half-width-kana", "warning", "half-width katakana",
         "--fix writes them in full width, as Japanese text does", True),
    Rule("decomposed-characters", "warning", "letters followed by their accent or dakuten",
         "--fix composes them: to a tokenizer they are other words", True),
    Rule("mixed-width", "note", "full-width letters or digits where half-width ones are usual",
         "choose one width; a model learns both and mixes them"),
    Rule("mixed-punctuation", "note", "Japanese commas and stops of another style than most rows",
         "choose 、。 or ，． for all rows"),
    Rule("outer-space", "warning", "white space before or after a message's text",
         "--fix trims it: a model learns to begin or end with it", True),
    # --- what answers say ---
    Rule("template-leftover", "error", "marks of a template or of another chat format",
         "fill in the blank, or remove the mark: it is trained as text"),
    Rule("boilerplate", "warning", "refusals and phrases of another assistant",
         "keep them only if the model is to say so"),
    Rule("loop", "warning", "an answer that repeats itself",
         "cut the answer or write it anew: loops are learnt first"),
    Rule("cut-answer", "warning", "an answer that stops in mid-sentence, where most do not",
         "restore its end, or leave the row out"),
    Rule("unclosed-fence", "warning", "a code block that is not closed",
         "close it with ```"),
    Rule("unclosed-bracket", "note", "a bracket or quote without its partner",
         "see whether text is missing there"),
    Rule("prompt-as-answer", "warning", "an answer that only says the question again",
         "write the answer"),
    Rule("same-ending", "note", "answers that differ and end with one and the same sentence",
         "keep it if every answer should end so"),
    Rule("contact", "note", "web or e-mail addresses",
         "see `tanren data screen`, which finds and redacts what is personal"),
    Rule("untrained-answer", "note", "a last answer of weight 0, of which nothing is learnt",
         "set its weight to 1 if it is the one to learn"),
    # --- languages and lengths ---
    Rule("other-language", "warning", "an answer in another language than its question",
         "answer in the question's language, or ask for the other one"),
    Rule("rare-language", "note", "an answer in another language than nearly all",
         "see whether the row belongs here"),
    Rule("length-outlier", "note", "a prompt or answer far longer or shorter than the others",
         "look at these first: cut, joined or empty rows stand out so"),
    Rule("too-long", "warning", "more characters than --max-characters",
         "shorten or split the row"),
    # --- labels ---
    Rule("label-imbalance", "warning", "short answers of which one label has by far the most",
         "add rows of the others, or judge by each label's own accuracy"),
    Rule("rare-label", "note", "labels with fewer than five rows",
         "add rows, or join them to another label"),
    Rule("label-variants", "warning", "labels that differ only in case, width or punctuation",
         "write each label in one way"),
    # --- system prompts ---
    Rule("empty-system", "warning", "a system message without text",
         "write it or remove it"),
    Rule("some-without-system", "warning", "no system prompt, where other rows have one",
         "give it to all rows, or to none"),
    Rule("system-variants", "warning", "a system prompt that is almost another one, or a rare one",
         "use one wording, the one that will be used later"),
    # --- repeats ---
    Rule("duplicate", "warning", "the same row again",
         "--fix keeps the first", True),
    Rule("near-duplicate", "note", "nearly the same row again",
         "keep one of them, unless the small difference is the lesson"),
    Rule("contradiction", "warning", "the same question with another answer",
         "keep the right answer, or ask differently"),
    Rule("leak-row", "error", "a row that stands in another file too",
         "take it out of one of them: what was trained measures nothing"),
    Rule("leak-prompt", "error", "a question that stands in another file too",
         "take it out of one of them, or split again with `tanren data split`"),
    Rule("leak-near", "warning", "a row that is nearly one of another file",
         "split again with `tanren data split`, which keeps them together"),
    # --- the whole ---
    Rule("few-rows", "warning", "hardly enough rows to learn from",
         "tens of rows teach a tone, hundreds a task"),
    Rule("chat-warning", "warning", "what `tanren check` warns of",
         "see each place"),
)  # fmt: skip

RULES: dict[str, Rule] = {rule.name: rule for rule in _TABLE}
