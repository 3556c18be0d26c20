"""`python -m saei.probe`."""

import sys

from saei.cli import run_main
from saei.probe.run import main

if __name__ == "__main__":
    sys.exit(run_main(main))
