"""Metadata hook of the six packages: lets each one install alone from the checkout, its siblings found beside it.

No package index holds the siblings while one works on a checkout, so their names alone would not resolve. A wheel built
from the checkout (`pip install ./packages/flow`) therefore names a sibling by its folder, `brushwork-tokens @ file://…`.
The plain name, pinned to the same version, is used where a folder would be wrong:

* editable installs, because pip takes `-e packages/tokens` and a second URL of the same package for a conflict;
* releases (`BRUSHWORK_RELEASE=1`), whose wheels must not name a folder of the machine that built them;
* builds from an sdist, where there is no sibling folder.

Each package reaches this file, like the licence, through a symbolic link; its sdist holds what the link points to.
"""

import os
import re
import sys
import tarfile
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

SIBLING = re.compile(r"brushwork-(?P<folder>\w+)(\[.*\])?")
EDITABLE_HOOKS = {"prepare_metadata_for_build_editable", "build_editable"}  # PEP 660

tarfile.TarFile.dereference = True  # hatchling would put the links themselves into an sdist, where they lead nowhere


class SiblingDependencies(MetadataHookInterface):
    """Fills `project.dependencies` from the `dependencies` of the hook's own table in pyproject.toml."""

    def update(self, metadata: dict) -> None:
        """Writes each dependency as it stands, a sibling as `name @ file://folder` or `name==version`."""
        plain = os.environ.get("BRUSHWORK_RELEASE") == "1" or is_editable_build()

        def resolve(dependency: str) -> str:
            sibling = SIBLING.fullmatch(dependency)
            if sibling is None:
                return dependency
            folder = Path(self.root).resolve().parent / sibling["folder"]
            if plain or not (folder / "pyproject.toml").is_file():
                return f"{dependency}=={metadata['version']}"
            return f"{dependency} @ {folder.as_uri()}"

        metadata["dependencies"] = [resolve(dependency) for dependency in self.config["dependencies"]]


def is_editable_build() -> bool:
    """True below one of the PEP 660 entry points: hatchling does not tell a metadata hook what it is called for."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in EDITABLE_HOOKS:
            return True
        frame = frame.f_back
    return False
