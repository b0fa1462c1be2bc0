#!/usr/bin/env python3
"""Whether a list of components (CycloneDX) is one of this program: complete, of
the locked versions, and without a path of the machine that made it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "x86_64-unknown-linux-gnu"


def named(line):
    """Name and version at the beginning of a line of `cargo tree`."""
    name, version = line.split()[:2]
    return name, version.removeprefix("v")


def main(path):
    text = Path(path).read_text()
    bom = json.loads(text)
    faults = []
    if (bom.get("bomFormat"), bom.get("specVersion")) != ("CycloneDX", "1.5"):
        faults.append(f"it is {bom.get('bomFormat')} {bom.get('specVersion')}")

    cargo_home = os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")
    for place in (str(ROOT), cargo_home, str(Path.home())):
        if len(place) > 1 and place in text:
            faults.append(f"it names {place}")

    listed = {(component["name"], component["version"]) for component in bom.get("components", [])}
    lock = (ROOT / "Cargo.lock").read_text()
    locked = set(re.findall(r'^name = "(.*)"\nversion = "(.*)"$', lock, re.MULTILINE))
    faults += [f"{name} {version} is not in Cargo.lock" for name, version in sorted(listed - locked)]

    # What is built for the program: its dependencies, and theirs.
    tree = ["cargo", "tree", "--locked", "--edges", "normal,build", "--target", TARGET, "--prefix", "none"]
    lines = subprocess.run(tree, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    own, *needed = (named(line) for line in lines if line)
    faults += [f"{name} {version} is missing" for name, version in sorted(set(needed) - listed)]
    component = bom.get("metadata", {}).get("component", {})
    if (component.get("name"), component.get("version")) != own:
        faults.append(f"it is about {component.get('name')} {component.get('version')}")

    if faults:
        sys.exit("\n".join([f"{path}:", *faults]))
    print(f"{path}: {len(listed)} components, all locked and none missing")


if __name__ == "__main__":
    main(*sys.argv[1:])
