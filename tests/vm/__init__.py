"""Tests that need a machine of their own: systemd as PID 1 and a pure cgroup v2."""
