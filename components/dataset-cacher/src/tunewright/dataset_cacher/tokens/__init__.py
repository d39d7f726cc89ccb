"""Text to tokens: tokenizers, the engines that run them, and which tokens cover what."""
