"""Sweeps: one short file per question, and the runner that answers it."""
