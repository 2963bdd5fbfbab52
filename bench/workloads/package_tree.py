"""A tree of packages: how long do importing, compiling, `git status` and `grep -r` take?

The tree is a copy of a package that cairnfs needs itself (rich), so every machine has the same. `import` loads every module of
it in a new interpreter, from compiled files. Seconds of the whole program, its start included.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from cairnfs.bench.sense import BenchError, Cold
from cairnfs.bench.workload import WHY_DURABLE, WHY_OPEN, WHY_REQUESTS, Line, Run, Workload

PACKAGE = "rich"
COPY, COMPILE = "copy", "python -m compileall"
IMPORT_COLD, IMPORT = "import, cold", "import, warm"
STATUS_COLD, STATUS = "git status, cold", "git status, warm"
GREP_COLD, GREP = "grep -r, cold", "grep -r, warm"
GIT = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "safe.directory=*", "-c", "gc.auto=0"]
WORD = "from"  # in every module but a few
IMPORT_ALL = """
import importlib, sys
names = sys.argv[1].split(",")
for name in names:
    importlib.import_module(name)
here = [name for name in names if not sys.modules[name].__file__.startswith(sys.argv[2])]
sys.exit(f"not from the tree: {here}" if here else 0)
"""


class PackageTree(Workload):
    """One package."""

    name = "package tree"
    question = "How long do import, compileall, git status and grep -r of a package take?"

    @property
    def lines(self) -> list[Line]:
        made = [Line(name, "s", WHY_DURABLE, "run") for name in (COPY, COMPILE)]
        cold = [Line(name, "s", WHY_REQUESTS, "run") for name in (IMPORT_COLD, STATUS_COLD, GREP_COLD)]
        return made + cold + [Line(name, "s", WHY_OPEN, "run") for name in (IMPORT, STATUS, GREP)]

    def missing(self) -> str:
        return "; ".join(f"{program} is not installed" for program in ("git", "grep") if shutil.which(program) is None)

    def run(self, run: Run) -> None:
        tree = Tree(run.folder)
        run.measure(COPY, lambda worker: tree.copy(), 1, n_procs=1)
        run.measure(COMPILE, lambda worker: tree.compile(), 1, n_procs=1)
        tree.commit()
        n_bytes = sum(path.stat().st_size for path in tree.modules)
        n_modules = len(tree.modules)
        for cold, warm, act, expected in (
            (IMPORT_COLD, IMPORT, tree.import_all, Cold(tree.modules, {"LOOKUP": n_modules, "READ": n_modules})),
            (STATUS_COLD, STATUS, tree.git_status, Cold(tree.modules, {"LOOKUP": n_modules})),
            (GREP_COLD, GREP, tree.grep, Cold(tree.modules, {"READ": n_modules}, n_bytes)),
        ):
            run.measure(cold, act, 1, n_procs=1, cold=expected)
            act(0)
            run.measure(warm, act, 1, n_procs=1, again=True)


class Tree:
    """A copy of the package below a folder, and what is done with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = Path(sysconfig.get_path("purelib")) / PACKAGE
        if not self.source.is_dir():
            raise BenchError(f"{self.source} is missing: is cairnfs installed in the environment of {sys.executable}?")
        self.names = sorted(path.relative_to(self.source) for path in self.source.rglob("*.py"))

    @property
    def modules(self) -> list[Path]:
        return [self.folder / PACKAGE / name for name in self.names]

    def copy(self) -> None:
        shutil.copytree(self.source, self.folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        wrong = [name for name in self.names if (self.source / name).read_bytes() != (self.folder / PACKAGE / name).read_bytes()]
        if wrong:
            raise BenchError(f"{self.folder / PACKAGE / wrong[0]}: its bytes are not those that were copied")

    def compile(self) -> None:
        self._check([sys.executable, "-m", "compileall", "-q", "-f", PACKAGE])
        if len(list((self.folder / PACKAGE).rglob("*.pyc"))) != len(self.names):
            raise BenchError(f"{self.folder}: compileall did not write a file for each of {len(self.names)} modules")

    def commit(self) -> None:
        (self.folder / ".gitignore").write_text("__pycache__/\n")
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "tree"]):
            self._check([*GIT, *words])

    def import_all(self, worker: int) -> None:
        names = [".".join([PACKAGE, *name.with_suffix("").parts]).removesuffix(".__init__") for name in self.names]
        wanted = ",".join(
            name for name in names if not name.endswith(("__main__", "_windows", "_win32_console", "_windows_renderer"))
        )
        self._check([sys.executable, "-B", "-c", IMPORT_ALL, wanted, str(self.folder)], {"PYTHONPATH": str(self.folder)})

    def git_status(self, worker: int) -> None:
        said = self._check([*GIT, "status", "--porcelain"])
        if said:
            raise BenchError(f"{self.folder}: git finds changes where there are none: {said.splitlines()[0]}")

    def grep(self, worker: int) -> None:
        found = self._check(["grep", "-rl", "--include=*.py", WORD, PACKAGE]).splitlines()
        wanted = [name for name in self.names if WORD.encode() in (self.source / name).read_bytes()]
        if sorted(found) != sorted(str(Path(PACKAGE) / name) for name in wanted):
            raise BenchError(f"{self.folder}: grep found {len(found)} files with '{WORD}', {len(wanted)} have it")

    def _check(self, command: list[str], environment: dict[str, str] | None = None) -> str:
        """Run a program in the folder; what it prints. BenchError with its last line when it fails."""
        inherited = {**os.environ, **(environment or {})}
        done = subprocess.run(command, cwd=self.folder, env=inherited, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise BenchError(f"{' '.join(command[:3])} in {self.folder}: {said}")
        return done.stdout
