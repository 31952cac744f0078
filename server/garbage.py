"""Python's collector of garbage stops everything while it looks, and at what stays for good it looks in vain.

With all that a server imports, such a look takes a tenth of a second, and more where cores are short: nobody
is answered meanwhile.
"""

import gc
import importlib
import sys


def keep() -> None:
    """What there is now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()


def load(module: str) -> None:
    """Import a large module while others are answered: what it makes stays, and is not looked at."""
    if module in sys.modules:
        return
    gc.disable()
    try:
        importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()
