#!/usr/bin/env bash
# The whole suite: three files at a time, and then, with the machine to themselves, the tests that hold times to bounds or
# take much of its memory. The first part also fails a test in which fedbroker's own code blocks an event loop; watching
# for that takes time, so the second part does not. Arguments are pytest's. Fails if any test does, after all have run;
# 5 is pytest's exit code for arguments that choose none.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

readonly none=5
suite() { .venv/bin/python -m pytest "$@"; }

together=0 alone=0
suite -n 3 --dist loadfile --alone no --blocking "$@" || together=$?
suite --alone only "$@" || alone=$?

if [ "$alone" = "$none" ]; then exit "$together"; fi
if [ "$together" != 0 ] && [ "$together" != "$none" ]; then exit "$together"; fi
exit "$alone"
