"""`python -m fusebert.cli.followed`: the command line in a process that stops with the one that began it."""

import sys

from fusebert.cli import main
from fusebert.workers import stop_with_stdin

if __name__ == "__main__":
    stop_with_stdin()
    sys.exit(main(followed=True))
