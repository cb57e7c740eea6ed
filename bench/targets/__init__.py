"""Systems under test: what can be started, loaded, looked at and stopped, each in the same way."""

from bench.targets.base import Target, TargetError, TargetUnavailable, find_target, known_targets

__all__ = ["Target", "TargetError", "TargetUnavailable", "find_target", "known_targets"]
