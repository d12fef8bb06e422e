"""How llama.cpp cuts text before byte-level merges: the kinds that it knows by name.

A GGUF file carries a name (`tokenizer.ggml.pre`) instead of a rule. The rules behind the names are
facts of llama.cpp's `llama-vocab.cpp`; here they are written for the tokenizers library, so that it
can be seen before writing what llama.cpp will make of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

_ENGLISH = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_UPPER_LOWER = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+"
_UPPER_ONLY = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*"
_SIGNS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_CODE_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_PROSE = " ?[^(\\s|.,!?…。，、।۔،)]+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`rules` are applied one after another, each to what the one before left uncut; what a rule
    matches is a piece, and so is what lies between. `whole_words`: a piece that is a token is not
    built by merges.
    """

    name: str
    rules: tuple[str, ...]
    whole_words: bool = False


def _words(digits: str) -> str:
    return f"{_ENGLISH}|{_WORD}|{digits}|{_SIGNS}|{_SPACE}"


# In order of preference where several do the same.
PRE_TOKENIZERS = (
    PreTokenizer("qwen2", (_words(r"\p{N}"),)),
    PreTokenizer("llama-bpe", (_words(r"\p{N}{1,3}"),), whole_words=True),
    PreTokenizer("gpt-2", (_GPT2,)),
    PreTokenizer("smaug-bpe", (_words(r"\p{N}{1,3}"),)),
    PreTokenizer(
        "qwen35",
        (
            rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",
        ),
    ),
    PreTokenizer(
        "tekken",
        (rf"{_UPPER_LOWER}|{_UPPER_ONLY}|\p{{N}}|{_SIGNS_SLASH}|{_SPACE}",),
        whole_words=True,
    ),
    PreTokenizer(
        "gpt-4o",
        (
            rf"{_UPPER_LOWER}{_ENGLISH}?|{_UPPER_ONLY}{_ENGLISH}?|\p{{N}}{{1,3}}"
            rf"|{_SIGNS_SLASH}|{_SPACE}",
        ),
    ),
    PreTokenizer("smollm", (r"\p{N}", _GPT2)),
    PreTokenizer(
        "deepseek-v3",
        (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            rf"{_CODE_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
            rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}",
        ),
    ),
    PreTokenizer(
        "deepseek-coder", ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
    ),
    PreTokenizer("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer(
        "seed-coder",
        (rf"{_ENGLISH}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACE}",),
    ),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", _words(r"\p{N}+")), whole_words=True),
    PreTokenizer("ufakzeka", (rf"{_WORD}|\p{{N}}|{_SIGNS}|{_SPACE}",)),
    PreTokenizer("poro-chat", (_PROSE,)),
    PreTokenizer("viking", (_PROSE, r"\p{N}")),
    PreTokenizer("default", (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
)
