"""Decoding: pure functions over `model.apply`, with a cache of keys and values."""
