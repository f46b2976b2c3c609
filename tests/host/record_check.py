"""Run with ComfyUI's Python: the record's memory locks under the host's budget and switches.

Usage: record_check.py COMFYUI PACK; prints JSON. The driver is replaced by one that keeps accounts, and the CPU
stands for a card that copies while it computes.
"""

from __future__ import annotations

import gc
import json

import inside  # isort: skip; it makes the host and the pack importable
import comfy.model_management as memory
import portraits.nodes.host.record as record
import torch
from portraits.fluxguard_core import devices
from portraits.fluxguard_core.flow import pinned

MIB = 2**20
assert inside.host
found = {}
locked, told = {}, []


class Driver:
    """Accounts for locked memory, and refuses where it is told to."""

    refuses = False

    def cudaHostRegister(self, address, size, flags):
        if Driver.refuses:
            return 2
        locked[address] = size
        return 0

    def cudaHostUnregister(self, address):
        del locked[address]
        return 0


torch.cuda.cudart = Driver
memory.discard_cuda_async_error = lambda: None
record.warn = told.append
devices._TABLE["cpu"] = devices.Abilities(asynchronous=True)
pinned._SLAB = 4 * MIB


def kept(blocks: int):
    """So many MiB at rest, one block each."""
    _, storage = record.record_storage("pinned", "computed")
    shelf = storage.shelf(blocks)
    return storage.place, [shelf.put(torch.full((MIB // 4,), float(i))) for i in range(blocks)]


def run(name: str, limit: int, blocks: int = 10) -> None:
    told.clear()
    memory.MAX_PINNED_MEMORY = limit
    place, at_rest = kept(blocks)
    whole = all(float(stored.data[-1]) == i for i, stored in enumerate(at_rest))
    entry = {"place": place, "whole": whole, "told": len(told)}
    entry |= {"locked": sum(locked.values()) / MIB, "host": memory.TOTAL_PINNED_MEMORY / MIB}
    del at_rest
    gc.collect()
    found[name] = {**entry, "left": sum(locked.values()) + memory.TOTAL_PINNED_MEMORY}


with torch.inference_mode():
    run("room", 100 * MIB)
    run("budget", 9 * MIB)
    run("switched off", -1)
    Driver.refuses = True
    run("refused", 100 * MIB)
    Driver.refuses = False
    memory.device_supports_non_blocking = lambda device: False
    run("blocking", 100 * MIB)
print(json.dumps(found))
