"""`python -m daps_rl`: the daps-rl command."""

import sys

from daps_rl.cli import main

sys.exit(main())
