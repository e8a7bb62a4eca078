"""Notifiers that run Sim workflows."""
