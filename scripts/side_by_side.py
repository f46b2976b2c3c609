"""Run commands at the same time, each line of their output behind its command's name; fail if one of them fails.

    python scripts/side_by_side.py NAME=COMMAND [NAME=COMMAND ...]

A command that has failed does not stop the others, so that one run tells everything.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time


def say(line: str) -> None:
    """Write a line whole: print sends its end apart, and another thread's line could come between."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def relay(name: str, process: subprocess.Popen[str]) -> None:
    """Write what a process says, line by line."""
    assert process.stdout is not None
    for line in process.stdout:
        say(f"{name} | {line.rstrip()}")


def run(name: str, command: str, codes: dict[str, int]) -> None:
    """Run one shell command to its end and note its exit code."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        shell=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    relay(name, process)
    codes[name] = process.wait()
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    ended = "passed" if codes[name] == 0 else f"FAILED with exit code {codes[name]}"
    say(f"{name} | {ended} after {minutes} min {seconds} s")


def main(arguments: list[str]) -> int:
    """0 where every command ended well, else 1."""
    commands = dict(argument.split("=", 1) for argument in arguments)
    codes: dict[str, int] = {}
    threads = [threading.Thread(target=run, args=(*item, codes)) for item in commands.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [name for name in commands if codes.get(name) != 0]
    say(f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(commands)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
