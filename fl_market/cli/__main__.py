"""``python -m fl_market.cli``."""

import sys

from fl_market.cli.commands import main

sys.exit(main())
