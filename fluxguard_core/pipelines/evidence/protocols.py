"""The four protocols: what each asks, of which treatments."""

from __future__ import annotations

from .identify import judge_identify
from .robust import adaptive, judge_robust
from .runner import Protocol
from .verify import judge_verify

PROTOCOLS: dict[str, Protocol] = {
    "verify": Protocol("verify", "Verification", judge_verify),
    "identify": Protocol("identify", "Identification and linkability", judge_identify),
    "robust": Protocol("robust", "After sharing and purification", judge_robust, adaptive),
    "ablate": Protocol("ablate", "One part out", judge_verify),
}
"""By the name of the command."""
