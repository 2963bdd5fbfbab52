"""What fuse_wire.h and fuse_wire_codes.h declare, for the compiled FUSE modules. The headers have the offsets and meanings."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t


cdef extern from "fuse_wire.h" nogil:
    enum:
        FW_MAJOR
        FW_MINOR
        FW_MIN_MINOR
        FW_ROOT_ID
        FW_MIN_READ_BYTES
        FW_MAX_ERRNO
        FW_UNIQUE_INTERRUPT
        FW_LOOKUP
        FW_FORGET
        FW_GETATTR
        FW_SETATTR
        FW_READLINK
        FW_SYMLINK
        FW_MKNOD
        FW_MKDIR
        FW_UNLINK
        FW_RMDIR
        FW_RENAME
        FW_LINK
        FW_OPEN
        FW_READ
        FW_WRITE
        FW_STATFS
        FW_RELEASE
        FW_FSYNC
        FW_SETXATTR
        FW_GETXATTR
        FW_LISTXATTR
        FW_REMOVEXATTR
        FW_FLUSH
        FW_INIT
        FW_OPENDIR
        FW_READDIR
        FW_RELEASEDIR
        FW_FSYNCDIR
        FW_GETLK
        FW_SETLK
        FW_SETLKW
        FW_ACCESS
        FW_CREATE
        FW_INTERRUPT
        FW_BMAP
        FW_DESTROY
        FW_IOCTL
        FW_POLL
        FW_NOTIFY_REPLY
        FW_BATCH_FORGET
        FW_FALLOCATE
        FW_READDIRPLUS
        FW_RENAME2
        FW_LSEEK
        FW_COPY_FILE_RANGE
        FW_SETUPMAPPING
        FW_REMOVEMAPPING
        FW_SYNCFS
        FW_TMPFILE
        FW_STATX
        FW_COPY_FILE_RANGE_64
        FW_N_OPCODES
        FW_NOTIFY_INVAL_INODE
        FW_NOTIFY_INVAL_ENTRY
        FW_NOTIFY_STORE
        FW_NOTIFY_RETRIEVE
        FW_NOTIFY_DELETE
        FW_NOTIFY_INC_EPOCH
        FW_SET_MODE
        FW_SET_UID
        FW_SET_GID
        FW_SET_SIZE
        FW_SET_ATIME
        FW_SET_MTIME
        FW_SET_FH
        FW_SET_ATIME_NOW
        FW_SET_MTIME_NOW
        FW_SET_CTIME
        FW_SET_KILL_SUIDGID
        FW_FOPEN_DIRECT_IO
        FW_FOPEN_KEEP_CACHE
        FW_FOPEN_NOFLUSH
        FW_GETATTR_FH
        FW_RELEASE_FLOCK_UNLOCK
        FW_LK_FLOCK
        FW_WRITE_CACHE
        FW_WRITE_KILL_SUIDGID
        FW_FSYNC_DATA
        FW_OPEN_KILL_SUIDGID
        FW_SETXATTR_KILL_SGID
        FW_EXPIRE_ONLY

    uint64_t FW_CAP_ASYNC_READ
    uint64_t FW_CAP_OVER_IO_URING
    uint64_t FW_CAP_POSIX_LOCKS
    uint64_t FW_CAP_ATOMIC_O_TRUNC
    uint64_t FW_CAP_EXPORT_SUPPORT
    uint64_t FW_CAP_BIG_WRITES
    uint64_t FW_CAP_DONT_MASK
    uint64_t FW_CAP_FLOCK_LOCKS
    uint64_t FW_CAP_AUTO_INVAL_DATA
    uint64_t FW_CAP_DO_READDIRPLUS
    uint64_t FW_CAP_READDIRPLUS_AUTO
    uint64_t FW_CAP_ASYNC_DIO
    uint64_t FW_CAP_PARALLEL_DIROPS
    uint64_t FW_CAP_POSIX_ACL
    uint64_t FW_CAP_MAX_PAGES
    uint64_t FW_CAP_CACHE_SYMLINKS
    uint64_t FW_CAP_EXPLICIT_INVAL_DATA
    uint64_t FW_CAP_HANDLE_KILLPRIV_V2
    uint64_t FW_CAP_SETXATTR_EXT
    uint64_t FW_CAP_INIT_EXT
    uint64_t FW_CAP_HAS_EXPIRE_ONLY
    uint64_t FW_CAP_DIRECT_IO_ALLOW_MMAP

    struct fw_in_header:
        uint32_t len
        uint32_t opcode
        uint64_t unique
        uint64_t nodeid
        uint32_t uid
        uint32_t gid
        uint32_t pid
        uint16_t total_extlen

    struct fw_out_header:
        uint32_t len
        int32_t error
        uint64_t unique

    struct fw_attr:
        uint64_t ino
        uint64_t size
        uint64_t blocks
        uint64_t atime
        uint64_t mtime
        uint64_t ctime
        uint32_t atimensec
        uint32_t mtimensec
        uint32_t ctimensec
        uint32_t mode
        uint32_t nlink
        uint32_t uid
        uint32_t gid
        uint32_t rdev
        uint32_t blksize
        uint32_t flags

    struct fw_init_in:
        uint32_t major
        uint32_t minor
        uint32_t max_readahead
        uint32_t flags

    struct fw_init_in_ext:
        uint32_t flags2

    struct fw_init_out:
        uint32_t major
        uint32_t minor
        uint32_t max_readahead
        uint32_t flags
        uint16_t max_background
        uint16_t congestion_threshold
        uint32_t max_write
        uint32_t time_gran
        uint16_t max_pages
        uint16_t map_alignment
        uint32_t flags2
        uint32_t max_stack_depth
        uint16_t request_timeout

    struct fw_entry_out:
        uint64_t nodeid
        uint64_t generation
        uint64_t entry_valid
        uint64_t attr_valid
        uint32_t entry_valid_nsec
        uint32_t attr_valid_nsec
        fw_attr attr

    struct fw_attr_out:
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        fw_attr attr

    struct fw_time:
        int64_t sec
        uint32_t nsec

    struct fw_statx_in:
        uint32_t getattr_flags
        uint64_t fh
        uint32_t sx_flags
        uint32_t sx_mask

    struct fw_statx_out:
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        uint32_t flags
        uint32_t mask
        uint32_t blksize
        uint64_t attributes
        uint32_t nlink
        uint32_t uid
        uint32_t gid
        uint16_t mode
        uint64_t ino
        uint64_t size
        uint64_t blocks
        uint64_t attributes_mask
        fw_time atime
        fw_time btime
        fw_time ctime
        fw_time mtime
        uint32_t rdev_major
        uint32_t rdev_minor
        uint32_t dev_major
        uint32_t dev_minor

    struct fw_forget_in:
        uint64_t nlookup

    struct fw_forget_one:
        uint64_t nodeid
        uint64_t nlookup

    struct fw_batch_forget_in:
        uint32_t count

    struct fw_getattr_in:
        uint32_t getattr_flags
        uint64_t fh

    struct fw_setattr_in:
        uint32_t valid
        uint64_t fh
        uint64_t size
        uint64_t lock_owner
        uint64_t atime
        uint64_t mtime
        uint64_t ctime
        uint32_t atimensec
        uint32_t mtimensec
        uint32_t ctimensec
        uint32_t mode
        uint32_t uid
        uint32_t gid

    struct fw_mknod_in:
        uint32_t mode
        uint32_t rdev
        uint32_t umask

    struct fw_mkdir_in:
        uint32_t mode
        uint32_t umask

    struct fw_rename_in:
        uint64_t newdir

    struct fw_rename2_in:
        uint64_t newdir
        uint32_t flags

    struct fw_link_in:
        uint64_t oldnodeid

    struct fw_open_in:
        uint32_t flags
        uint32_t open_flags

    struct fw_create_in:
        uint32_t flags
        uint32_t mode
        uint32_t umask
        uint32_t open_flags

    struct fw_open_out:
        uint64_t fh
        uint32_t open_flags
        int32_t backing_id

    struct fw_release_in:
        uint64_t fh
        uint32_t flags
        uint32_t release_flags
        uint64_t lock_owner

    struct fw_flush_in:
        uint64_t fh
        uint64_t lock_owner

    struct fw_read_in:
        uint64_t fh
        uint64_t offset
        uint32_t size
        uint32_t read_flags
        uint64_t lock_owner
        uint32_t flags

    struct fw_write_in:
        uint64_t fh
        uint64_t offset
        uint32_t size
        uint32_t write_flags
        uint64_t lock_owner
        uint32_t flags

    struct fw_write_out:
        uint32_t size

    struct fw_statfs_out:
        uint64_t blocks
        uint64_t bfree
        uint64_t bavail
        uint64_t files
        uint64_t ffree
        uint32_t bsize
        uint32_t namelen
        uint32_t frsize

    struct fw_fsync_in:
        uint64_t fh
        uint32_t fsync_flags

    struct fw_setxattr_in:
        uint32_t size
        uint32_t flags
        uint32_t setxattr_flags

    struct fw_getxattr_in:
        uint32_t size

    struct fw_getxattr_out:
        uint32_t size

    struct fw_lk_in:
        uint64_t fh
        uint64_t owner
        uint64_t start
        uint64_t end
        uint32_t type
        uint32_t pid
        uint32_t lk_flags

    struct fw_lk_out:
        uint64_t start
        uint64_t end
        uint32_t type
        uint32_t pid

    struct fw_access_in:
        uint32_t mask

    struct fw_interrupt_in:
        uint64_t unique

    struct fw_fallocate_in:
        uint64_t fh
        uint64_t offset
        uint64_t length
        uint32_t mode

    struct fw_lseek_in:
        uint64_t fh
        uint64_t offset
        uint32_t whence

    struct fw_lseek_out:
        uint64_t offset

    struct fw_copy_file_range_in:
        uint64_t fh_in
        uint64_t off_in
        uint64_t nodeid_out
        uint64_t fh_out
        uint64_t off_out
        uint64_t len
        uint64_t flags

    struct fw_copy_file_range_out:
        uint64_t bytes_copied

    struct fw_dirent:
        uint64_t ino
        uint64_t off
        uint32_t namelen
        uint32_t type

    struct fw_notify_inval_inode_out:
        uint64_t ino
        int64_t off
        int64_t len

    struct fw_notify_inval_entry_out:
        uint64_t parent
        uint32_t namelen
        uint32_t flags

    struct fw_notify_delete_out:
        uint64_t parent
        uint64_t child
        uint32_t namelen
        uint32_t padding

    struct fw_notify_store_out:
        uint64_t nodeid
        uint64_t offset
        uint32_t size
        uint32_t padding
