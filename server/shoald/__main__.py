"""`python -m shoald`."""

from __future__ import annotations

import sys

from shoald.main import main

sys.exit(main())
