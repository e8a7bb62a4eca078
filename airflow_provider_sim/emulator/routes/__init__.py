"""Sim's HTTP APIs and web pages."""
