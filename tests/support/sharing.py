"""How processes share the tests (`pytest -n 3`): each takes the next one when it is free, but some files are for one process."""

from xdist.scheduler import LoadScopeScheduling

ONE_CEPH = (
    "test_ceph_faults test_ceph_model test_ceph_mount test_ceph_operators test_ceph_proxy test_erasure_coded test_objbench"
    " test_objects test_rados test_rados_engine test_rados_many test_s3 test_s3_answers test_s3_keys test_s3_mount"
    " test_s3_refusals"
)
ONE_KERNEL = (  # they would wait for each other, see the fixture `kernel_caches`
    "test_absent_names test_arena_answers test_arena_descriptors test_bench test_bench_scripts test_bench_sense"
    " test_compiled_listings test_compiled_writes test_left_out_attributes test_redis_mount test_redis_round_trips"
    " test_trimmed_log test_virtual_files"
    " test_warm_attributes test_warm_listing test_warm_requests"
)
TOGETHER = {f"{file}.py": group for group in (ONE_CEPH, ONE_KERNEL) for file in group.split()}


class Sharing(LoadScopeScheduling):
    """That of pytest-xdist, which begins with the largest group. Its own groups (`loadgroup`) do nothing in pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        """The group of a test, or the test."""
        file = nodeid.partition("::")[0].rpartition("/")[2]
        return TOGETHER.get(file, nodeid)
