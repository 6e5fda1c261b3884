"""Training: from scratch or on from a trained model, on the Hugging Face Trainer, from one validated YAML."""
