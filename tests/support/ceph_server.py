"""A Ceph cluster of the tests' own, the one that is measured as well."""

from cairnfs.bench.servers import CEPH, RADOSGW, CephCluster

__all__ = ["CEPH", "RADOSGW", "CephCluster"]
