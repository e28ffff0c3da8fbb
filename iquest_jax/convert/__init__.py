"""Exchange with published checkpoints in the Hugging Face layout."""
