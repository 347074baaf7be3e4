"""Imports every module of the packages named on the command line: `python .ci/import_all.py brushwork.flow`.

A module may need what only an extra of its package installs; any other missing import is an error.
"""

import importlib
import pkgutil
import re
import sys
from importlib.metadata import requires

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    modules = [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    optional = {re.split(r"[^\w.-]", one)[0] for one in requires(name.replace(".", "-")) or () if "extra ==" in one}
    for module in modules:
        if module.endswith("__main__"):
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in {one.replace("-", "_") for one in optional}:
                raise
            sys.stdout.write(f"{module} needs an extra: {error.name}\n")
    sys.stdout.write(f"{name}: {len(modules)} modules from {package.__path__[0]}\n")
