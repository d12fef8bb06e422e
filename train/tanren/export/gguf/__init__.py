"""GGUF: whole models and LoRA adapters as llama.cpp and Ollama read them.

    write_gguf(model_folder, target, type=GgufType.F16)     -> GgufFile
    write_lora_gguf(adapter, base, target, type=...)        -> GgufFile
    read_back(path)                                         -> model, tokenizer (transformers)
    ask_llama_cpp(path, prompts, texts, lora=...)           -> logits, ids, stops (llama.cpp)
    quantise(source, target, "q4_k_m")                      -> whether a llama.cpp was there

What llama.cpp makes of the tokenizer is worked out before anything is written (`likeness`).
"""

from tanren.export.gguf.kinds import GgufFile, GgufType
from tanren.export.gguf.likeness import Difference, Likeness
from tanren.export.gguf.llama_cpp import (
    PYTHON_VARIABLE,
    QUANT_KINDS,
    LlamaCppAnswer,
    ask_llama_cpp,
    find_program,
    find_python,
    llama_cpp_logits,
    llama_cpp_token_ids,
    quantise,
    quantise_command,
)
from tanren.export.gguf.lora import write_lora_gguf
from tanren.export.gguf.read import (
    READABLE,
    read_back,
    read_metadata,
    read_model,
    read_tokenizer,
    stop_ids,
)
from tanren.export.gguf.write import write_gguf

__all__ = [
    "PYTHON_VARIABLE",
    "QUANT_KINDS",
    "READABLE",
    "Difference",
    "GgufFile",
    "GgufType",
    "Likeness",
    "LlamaCppAnswer",
    "ask_llama_cpp",
    "find_program",
    "find_python",
    "llama_cpp_logits",
    "llama_cpp_token_ids",
    "quantise",
    "quantise_command",
    "read_back",
    "read_metadata",
    "read_model",
    "read_tokenizer",
    "stop_ids",
    "write_gguf",
    "write_lora_gguf",
]
