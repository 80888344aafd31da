"""``python docker/entrypoint [serve | plan | healthcheck]``."""

import sys
from pathlib import Path

# Run as a folder, Python puts that folder first on the path, where its modules would hide those of others.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from entrypoint.command import main  # noqa: E402  after the path is right

sys.exit(main(sys.argv[1:]))
