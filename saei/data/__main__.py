"""The data card of a data set as tables, without training: `python -m saei.data --data.source hub --data.path ...`."""

import sys

from saei.data.show import main

if __name__ == "__main__":
    from saei.cli import run_main

    sys.exit(run_main(main))
