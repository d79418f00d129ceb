"""The only part that speaks to etcd (3.4, 3.5, 3.6)."""

from controller.store.etcd.client import EtcdConfig
from controller.store.etcd.managed import ManagedEtcd
from controller.store.etcd.store import EtcdStore

__all__ = ["EtcdConfig", "EtcdStore", "ManagedEtcd"]
