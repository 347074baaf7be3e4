"""Imports every module of the packages named on the command line: `python .ci/import_all.py brushwork.flow`."""

import importlib
import pkgutil
import sys

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    modules = [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    for module in modules:
        if not module.endswith("__main__"):
            importlib.import_module(module)
    sys.stdout.write(f"{name}: {len(modules)} modules from {package.__path__[0]}\n")
