"""`python -m udppunch` is the same as `udppunch`."""

import sys

from udppunch.cli import main

sys.exit(main())
