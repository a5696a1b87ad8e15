"""Hugging Face folders, read and written without transformers."""
