"""The packaged embedder in the forms that are quick on CPUs, into the cache of the image.

Belongs here: what every pod would otherwise make for itself, at a minute of CPU time. Does not
belong here: choosing between the forms, where a pod runs (`resources/embedders/cpu.py`).

    python deploy/image/fill_cache.py FOLDER
"""

import sys
from pathlib import Path

from resources.embedders import cpu, openvino
from resources.embedders.model import find

#: Of processors with 8-bit units, and of all others.
_FORMS: tuple[cpu.Arithmetic, ...] = ("int8", "f32")


def main(folder: Path) -> None:
    """Convert the model, by itself, whichever processor builds the image."""
    model = find(None, weights=True)
    for form in _FORMS:
        cpu.arithmetic = lambda form=form: form  # type: ignore[misc]
        sys.stdout.write(f"{openvino.obtain(model, folder)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
