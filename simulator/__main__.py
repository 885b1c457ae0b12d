"""``python -m simulator``."""

import sys

from simulator.serve import main

sys.exit(main())
