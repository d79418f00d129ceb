"""`python -I -S agent/shim/__main__.py FD CGROUP`: the zygote.

Isolated mode takes no module from the environment or the working directory, so the root of the
packages is derived from this file.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from agent.shim.zygote import main

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
