"""Measurements: what takes how long, against something to compare it with. They start the servers that they need."""
