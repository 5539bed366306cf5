"""Validation of programs on targets, and of proxies against them."""
