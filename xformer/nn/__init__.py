"""Maths first, thin Flax modules around it.

Legend of the dimension suffixes used everywhere:
B batch, T query length, S key length, D model width, N heads, K key and value heads,
H head width, F feed-forward width, V vocabulary, E embedding width, L layers. `x_BTD` is an
array of shape [B, T, D].
"""
