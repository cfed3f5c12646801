"""`python -m eyas` is the command `eyas`."""

import sys

from eyas.cli import main

sys.exit(main())
