"""Text to batches: sources, tokenizers, token store, batch plan, objectives, pipeline.

NumPy, the standard library and the tokenizers' own libraries; never JAX.
"""
