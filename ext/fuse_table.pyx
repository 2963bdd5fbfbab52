"""Every opcode: its name, the handler's method that serves it, the function that translates between the two."""

from libc.stdint cimport uint64_t

from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.fuse_files cimport file_operation
from cairnfs.ext.fuse_names cimport name_operation

# Opcode: its name, and the handler's method that must be there for it to be served from Python.
OPCODES = {
    fw.FW_LOOKUP: ("LOOKUP", "lookup"),
    fw.FW_FORGET: ("FORGET", "forget"),
    fw.FW_GETATTR: ("GETATTR", "getattr"),
    fw.FW_SETATTR: ("SETATTR", "setattr"),
    fw.FW_READLINK: ("READLINK", "readlink"),
    fw.FW_SYMLINK: ("SYMLINK", "symlink"),
    fw.FW_MKNOD: ("MKNOD", "mknod"),
    fw.FW_MKDIR: ("MKDIR", "mkdir"),
    fw.FW_UNLINK: ("UNLINK", "unlink"),
    fw.FW_RMDIR: ("RMDIR", "rmdir"),
    fw.FW_RENAME: ("RENAME", "rename"),
    fw.FW_LINK: ("LINK", "link"),
    fw.FW_OPEN: ("OPEN", "open"),
    fw.FW_READ: ("READ", "read"),
    fw.FW_WRITE: ("WRITE", "write"),
    fw.FW_STATFS: ("STATFS", "statfs"),
    fw.FW_RELEASE: ("RELEASE", "release"),
    fw.FW_FSYNC: ("FSYNC", "fsync"),
    fw.FW_SETXATTR: ("SETXATTR", "setxattr"),
    fw.FW_GETXATTR: ("GETXATTR", "getxattr"),
    fw.FW_LISTXATTR: ("LISTXATTR", "listxattr"),
    fw.FW_REMOVEXATTR: ("REMOVEXATTR", "removexattr"),
    fw.FW_FLUSH: ("FLUSH", "flush"),
    fw.FW_INIT: ("INIT", None),
    fw.FW_OPENDIR: ("OPENDIR", "opendir"),
    fw.FW_READDIR: ("READDIR", "readdir"),
    fw.FW_RELEASEDIR: ("RELEASEDIR", "releasedir"),
    fw.FW_FSYNCDIR: ("FSYNCDIR", "fsyncdir"),
    fw.FW_GETLK: ("GETLK", "getlk"),
    fw.FW_SETLK: ("SETLK", "setlk"),
    fw.FW_SETLKW: ("SETLKW", "setlk"),
    fw.FW_ACCESS: ("ACCESS", "access"),
    fw.FW_CREATE: ("CREATE", "create"),
    fw.FW_INTERRUPT: ("INTERRUPT", None),
    fw.FW_BMAP: ("BMAP", None),
    fw.FW_DESTROY: ("DESTROY", None),
    fw.FW_IOCTL: ("IOCTL", None),
    fw.FW_POLL: ("POLL", None),
    fw.FW_NOTIFY_REPLY: ("NOTIFY_REPLY", None),
    fw.FW_BATCH_FORGET: ("BATCH_FORGET", "forget"),
    fw.FW_FALLOCATE: ("FALLOCATE", "fallocate"),
    fw.FW_READDIRPLUS: ("READDIRPLUS", "readdir"),
    fw.FW_RENAME2: ("RENAME2", "rename"),
    fw.FW_LSEEK: ("LSEEK", "lseek"),
    fw.FW_COPY_FILE_RANGE: ("COPY_FILE_RANGE", "copy_file_range"),
    fw.FW_SETUPMAPPING: ("SETUPMAPPING", None),
    fw.FW_REMOVEMAPPING: ("REMOVEMAPPING", None),
    fw.FW_SYNCFS: ("SYNCFS", "syncfs"),
    fw.FW_TMPFILE: ("TMPFILE", None),
    fw.FW_STATX: ("STATX", "getattr"),
    fw.FW_COPY_FILE_RANGE_64: ("COPY_FILE_RANGE_64", "copy_file_range"),
}

cdef Operation functions[fw.FW_N_OPCODES]

for _opcode in range(fw.FW_N_OPCODES):
    functions[<int>_opcode] = name_operation(_opcode)
    if functions[<int>_opcode] == NULL:
        functions[<int>_opcode] = file_operation(_opcode)


cdef Operation *operations() noexcept:
    """By opcode, up to FW_N_OPCODES; NULL where Python serves nothing."""
    return functions


cdef uint64_t served_by(object handler) except? 0:
    """The opcodes for which `handler` has what it takes, a bit for each."""
    cdef uint64_t served = 0
    for opcode, (_, method) in OPCODES.items():
        if method is not None and getattr(handler, method, None) is not None:
            served |= 1ULL << <int>opcode
    return served
