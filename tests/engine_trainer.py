"""A trainer to be killed: holds an engine that was asked something that takes long. Prints the engine's process id."""

import sys
from pathlib import Path

from tests.engine_models import rote_engine, rote_policy

engine = rote_engine(Path(sys.argv[1]), fault="hangs", child=sys.argv[2], timeout_s=600)
engine.hand_over(rote_policy(), 0)
print(engine.process_id, flush=True)
sys.stdin.read()
