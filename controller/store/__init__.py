"""A mirror of everything in etcd and guarded transactions; the same in memory for tests."""
