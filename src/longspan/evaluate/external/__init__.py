"""Sets of prompts that others publish: their files, the rules of their scores, and how samples fit a length."""
