"""What a run made, written for whoever serves it: whole weights, adapters, GGUF, Ollama, vLLM.

Each export is read back from disk by the reader that will use it and compared with the tuned model;
the proof lies beside the weights.
"""

from tanren import privacy

privacy.apply()  # before any module in here imports peft or transformers
