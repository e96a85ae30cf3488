"""``python -m scidiff.cli`` is the same as ``scidiff``."""

import sys

from scidiff.cli.dispatch import main

sys.exit(main())
