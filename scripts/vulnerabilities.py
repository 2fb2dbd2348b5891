"""``vulnerabilities.py REPORT... KNOWN``: judge pip-audit's reports; what is known of must be listed, with a reason.

Exits with 1 for a vulnerability that is not listed, and for a listed one that is gone. Reports that are not there,
or that know none of the packages, mean that no service was reached: nothing was judged then, which is said, and is no
error.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path


def main(reports: list[Path], known: Path) -> int:
    """Say what is found; the exit code."""
    listed = {(one["package"], one["id"]): one["reason"] for one in tomllib.loads(known.read_text()).get("known", [])}
    if unexplained := [f"{package} {name}" for (package, name), reason in listed.items() if not reason.strip()]:
        print(f"audit: no reason is given for {', '.join(unexplained)}", file=sys.stderr)
        return 1
    packages = [
        package for report in reports if report.is_file() for package in json.loads(report.read_text())["dependencies"]
    ]
    judged = [package for package in packages if "vulns" in package]
    if not judged:
        print("audit: no service that knows of vulnerabilities was reached: the packages were not judged")
        return 0
    found = {(package["name"], vuln["id"]): vuln for package in judged for vuln in package["vulns"]}
    new = [key for key in found if key not in listed]
    gone = [key for key in listed if key not in found]
    for package, name in new:
        fixes = ", ".join(found[package, name].get("fix_versions", [])) or "no version"
        print(f"audit: {package}: {name} is known, and mended in {fixes}", file=sys.stderr)
    for package, name in gone:
        print(f"audit: {package}: {name} is listed in {known.name}, and not found any more", file=sys.stderr)
    if len(judged) < len(packages):
        print(f"audit: {len(packages) - len(judged)} of {len(packages)} packages are unknown to the service")
    return 1 if new or gone else 0


if __name__ == "__main__":
    *_reports, _known = map(Path, sys.argv[1:])
    sys.exit(main(_reports, _known))
