"""What all captures of CUDA graphs in this process share. Imports nothing of CUDA."""

from threading import Lock

capturing = Lock()
"""Held by whoever captures, or frees what captures hold: each capture waits for the whole device before it begins, and
memory that goes back to the device meanwhile spoils it."""
