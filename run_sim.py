"""`python run_sim.py scenarios/70b_3b.yaml`: the same as `hispec run scenarios/70b_3b.yaml`."""

import sys

from hispec_sim.cli.main import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
