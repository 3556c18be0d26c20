"""Answer grading: finding the answer, exact comparison in place, mathematics in worker processes.

Nothing here imports torch, so that a worker starts in half a second.
"""
