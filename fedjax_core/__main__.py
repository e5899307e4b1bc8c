"""`python -m fedjax_core`, the same as the command `fedjax-core`."""

import sys

from fedjax_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
