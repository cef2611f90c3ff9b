"""`python -m tokenlab` is `tokenlab`."""

import sys

from tokenlab.cli import main

sys.exit(main())
