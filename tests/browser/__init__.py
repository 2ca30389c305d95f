"""A real headless browser, driven by a script of the test's own.

Belongs here: having the browser and running a script in it. Does not belong here: any page.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests import packages

HERE = Path(__file__).parent

#: A Chromium that needs nothing of the machine that it runs on, and what drives it.
_CHROMIUM = "@sparticuz/chromium", "153.0.0"
_DRIVER = "playwright-core", "1.65.1"

_SECONDS = 120


def drive(script: str, *arguments: object) -> Any:
    """Run a script of this folder; what it writes to standard output, as JSON.

    It finds the arguments in `process.argv`, and `open()` in `browser.mjs`. AGENT_PIPELINES_BROWSER
    names a browser that is to be used instead.
    """
    chromium, driver = packages.from_npm(*_CHROMIUM), packages.from_npm(*_DRIVER)
    done = subprocess.run(
        [str(packages.node()), str(HERE / script), *map(str, arguments)],
        env={**os.environ, "CHROMIUM": str(chromium), "PLAYWRIGHT": str(driver)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
