"""Timing programs, and the peers that pf_jax is compared with."""
