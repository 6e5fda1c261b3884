"""Data: text to token files, the tokenizer, and the training mixture with planted retrieval tasks."""
