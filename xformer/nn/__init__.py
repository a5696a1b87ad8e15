"""Maths first, thin Flax modules around it.

Legend of the dimension suffixes used everywhere:
B batch, T query length, S key length, D model width, N heads, K key and value heads,
H head width, F feed-forward width, V vocabulary, E embedding width, L layers, P chosen
positions; in caches M slots, G hypotheses of an example, X examples · key heads in one axis,
R queries or rows in one. `x_BTD` is an array of shape [B, T, D].
"""
