"""Text to batches: sources, tokenizers, token store, batch plan, objectives, pipeline.

NumPy and the standard library (and sentencepiece); never JAX.
"""
