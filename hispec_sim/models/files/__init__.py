"""Networks, tokenizers and exit heads in files: what Hugging Face folders, GGUF files and heads' folders hold."""
