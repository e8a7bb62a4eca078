"""Sim's two APIs without I/O: a function for each endpoint returns a :class:`.http.Call`."""
