"""From a mix of conversations, a tokenizer and a chat template to a verified cache of tokens."""
