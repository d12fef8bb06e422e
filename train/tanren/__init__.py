"""tanren: local LoRA fine-tuning of open models, with proof of what it did."""

__version__ = "0.1.0"
