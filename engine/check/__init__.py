"""Checks of a whole volume: `fsck` finds and mends contradictions, `gc` finds and deletes what nobody uses."""
