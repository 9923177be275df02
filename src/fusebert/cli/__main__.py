"""`python -m fusebert.cli`, which torchrun and other programs start."""

import sys

from fusebert.cli import main

if __name__ == "__main__":
    sys.exit(main())
