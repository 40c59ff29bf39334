"""Worker processes that end with the process that started them, even if that was killed."""

import os
import threading
from time import sleep

SECONDS = 1.0
"""Pause between two looks at the parent."""


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended; the initialiser of a pool's workers.

    A killed parent cannot end its workers: they would compute on, for hours, for nobody.

    Parameters
    ----------
    parent
        Its process id.
    """

    def watch() -> None:
        while os.getppid() == parent:
            sleep(SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
