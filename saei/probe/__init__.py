"""The mechanism without training: what a moved input does to a policy. Start reading at `run.py`."""
