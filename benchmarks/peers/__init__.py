"""The same update, as a competent user would write it today without pf_jax.

All peers take pf_jax's parameters and the same noise, so that they compute the same
numbers: `tests/test_peers.py` compares their losses and gradients with pf_jax's.
"""
