"""The parts of `scripts/build_tiny_chat.py`: words, dialogues, tokenizer, training, model card."""
