"""Docker's notations of the command line, parsed: ports, mounts, environments, sizes, times. Pure but for env files.

Everything here raises `UsageFault`, an InvalidArgument that the command turns into exit code 2.
"""

from __future__ import annotations
