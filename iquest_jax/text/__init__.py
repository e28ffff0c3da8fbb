"""Text as tokens: the tokenizer, chat messages, and examples with the weight of learning each token."""
