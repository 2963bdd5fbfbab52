/* Numbers of the kernel's FUSE protocol: opcodes, notification codes, flags. fuse_wire.h has the messages. */
#ifndef CAIRN_FUSE_WIRE_CODES_H
#define CAIRN_FUSE_WIRE_CODES_H

enum {
    FW_MAJOR = 7,
    FW_MINOR = 45,
    FW_MIN_MINOR = 23, /* Linux 3.15: the first with the 64-byte INIT reply */
    FW_ROOT_ID = 1,
    FW_MIN_READ_BYTES = 8192, /* the kernel refuses a read() with a smaller buffer */
    FW_MAX_ERRNO = 511,       /* the kernel refuses a reply with a larger one */
    FW_UNIQUE_INTERRUPT = 1,  /* bit of `unique` set in INTERRUPT messages themselves */
};

enum fw_opcode {
    FW_LOOKUP = 1,
    FW_FORGET = 2, /* no reply */
    FW_GETATTR = 3,
    FW_SETATTR = 4,
    FW_READLINK = 5,
    FW_SYMLINK = 6,
    FW_MKNOD = 8,
    FW_MKDIR = 9,
    FW_UNLINK = 10,
    FW_RMDIR = 11,
    FW_RENAME = 12,
    FW_LINK = 13,
    FW_OPEN = 14,
    FW_READ = 15,
    FW_WRITE = 16,
    FW_STATFS = 17,
    FW_RELEASE = 18,
    FW_FSYNC = 20,
    FW_SETXATTR = 21,
    FW_GETXATTR = 22,
    FW_LISTXATTR = 23,
    FW_REMOVEXATTR = 24,
    FW_FLUSH = 25,
    FW_INIT = 26,
    FW_OPENDIR = 27,
    FW_READDIR = 28,
    FW_RELEASEDIR = 29,
    FW_FSYNCDIR = 30,
    FW_GETLK = 31,
    FW_SETLK = 32,
    FW_SETLKW = 33,
    FW_ACCESS = 34,
    FW_CREATE = 35,
    FW_INTERRUPT = 36, /* no reply needed */
    FW_BMAP = 37,
    FW_DESTROY = 38,
    FW_IOCTL = 39,
    FW_POLL = 40,
    FW_NOTIFY_REPLY = 41, /* no reply */
    FW_BATCH_FORGET = 42, /* no reply */
    FW_FALLOCATE = 43,
    FW_READDIRPLUS = 44,
    FW_RENAME2 = 45,
    FW_LSEEK = 46,
    FW_COPY_FILE_RANGE = 47,
    FW_SETUPMAPPING = 48,
    FW_REMOVEMAPPING = 49,
    FW_SYNCFS = 50,
    FW_TMPFILE = 51,
    FW_STATX = 52,
    FW_COPY_FILE_RANGE_64 = 53,
    FW_N_OPCODES = 64, /* size of tables indexed by opcode; 0 stands for every opcode beyond */
};

enum fw_notify_code {
    FW_NOTIFY_INVAL_INODE = 2,
    FW_NOTIFY_INVAL_ENTRY = 3,
    FW_NOTIFY_STORE = 4,
    FW_NOTIFY_RETRIEVE = 5,
    FW_NOTIFY_DELETE = 6,
    FW_NOTIFY_INC_EPOCH = 8, /* 7.44: every dentry of the mount must be looked up again */
};

/* INIT flags. Bits 32 and up travel in flags2, when FW_CAP_INIT_EXT is agreed. */
#define FW_CAP_ASYNC_READ (1ULL << 0)
#define FW_CAP_POSIX_LOCKS (1ULL << 1)
#define FW_CAP_ATOMIC_O_TRUNC (1ULL << 3)
#define FW_CAP_EXPORT_SUPPORT (1ULL << 4)
#define FW_CAP_BIG_WRITES (1ULL << 5)
#define FW_CAP_DONT_MASK (1ULL << 6)
#define FW_CAP_FLOCK_LOCKS (1ULL << 10)
#define FW_CAP_AUTO_INVAL_DATA (1ULL << 12)
#define FW_CAP_DO_READDIRPLUS (1ULL << 13)
#define FW_CAP_READDIRPLUS_AUTO (1ULL << 14)
#define FW_CAP_ASYNC_DIO (1ULL << 15)
#define FW_CAP_PARALLEL_DIROPS (1ULL << 18)
#define FW_CAP_POSIX_ACL (1ULL << 20)
#define FW_CAP_MAX_PAGES (1ULL << 22)
#define FW_CAP_CACHE_SYMLINKS (1ULL << 23)
#define FW_CAP_EXPLICIT_INVAL_DATA (1ULL << 25)
#define FW_CAP_HANDLE_KILLPRIV_V2 (1ULL << 28)
#define FW_CAP_SETXATTR_EXT (1ULL << 29)
#define FW_CAP_INIT_EXT (1ULL << 30)
#define FW_CAP_HAS_EXPIRE_ONLY (1ULL << 35)
#define FW_CAP_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#define FW_CAP_OVER_IO_URING (1ULL << 41) /* 7.42; offered while the module's parameter enable_uring is on */

enum { /* fw_setattr_in.valid */
    FW_SET_MODE = 1 << 0,
    FW_SET_UID = 1 << 1,
    FW_SET_GID = 1 << 2,
    FW_SET_SIZE = 1 << 3,
    FW_SET_ATIME = 1 << 4,
    FW_SET_MTIME = 1 << 5,
    FW_SET_FH = 1 << 6,
    FW_SET_ATIME_NOW = 1 << 7,
    FW_SET_MTIME_NOW = 1 << 8,
    FW_SET_CTIME = 1 << 10,
    FW_SET_KILL_SUIDGID = 1 << 11,
};

enum { /* fw_open_out.open_flags */
    FW_FOPEN_DIRECT_IO = 1 << 0,
    FW_FOPEN_KEEP_CACHE = 1 << 1,
    FW_FOPEN_NOFLUSH = 1 << 5,
};

enum {
    FW_GETATTR_FH = 1 << 0,            /* fw_getattr_in.getattr_flags: fh is valid */
    FW_RELEASE_FLOCK_UNLOCK = 1 << 1,  /* fw_release_in.release_flags */
    FW_LK_FLOCK = 1 << 0,              /* fw_lk_in.lk_flags: flock, not fcntl */
    FW_WRITE_CACHE = 1 << 0,           /* fw_write_in.write_flags: dirty page written back, fh is a guess */
    FW_WRITE_KILL_SUIDGID = 1 << 2,    /* the writer lacks CAP_FSETID */
    FW_FSYNC_DATA = 1 << 0,            /* fw_fsync_in.fsync_flags */
    FW_OPEN_KILL_SUIDGID = 1 << 0,     /* fw_open_in.open_flags: with O_TRUNC */
    FW_SETXATTR_KILL_SGID = 1 << 0,    /* fw_setxattr_in.setxattr_flags */
    FW_EXPIRE_ONLY = 1 << 0,           /* fw_notify_inval_entry_out.flags */
};

#endif
