"""Operator links."""
