/* The kernel's FUSE protocol, major 7, as far as minor 45: what cairnfs sends and receives, nothing else.
 *
 * Every message is native-endian and padded to 8 bytes. A request is one read() of the device: fw_in_header, the
 * opcode's fixed part, then names (NUL-terminated) or data up to header.len. A reply is one write(): fw_out_header
 * with the request's `unique`, then the opcode's fixed part. A notification is a write with unique 0 and its code in
 * `error`. Comments give byte offsets; the assertions at the end hold the compiler to them.
 *
 * Minor versions differ by fields at the end of structures and by INIT flags. Requests older than FW_MIN_MINOR are
 * refused at INIT, so every structure below is whole except where a flag decides (fw_setxattr_in).
 */
#ifndef CAIRN_FUSE_WIRE_H
#define CAIRN_FUSE_WIRE_H

#include <stdint.h>

#include "fuse_wire_codes.h"

struct fw_in_header {
    uint32_t len;          /*  0 of the whole message */
    uint32_t opcode;       /*  4 */
    uint64_t unique;       /*  8 */
    uint64_t nodeid;       /* 16 */
    uint32_t uid;          /* 24 */
    uint32_t gid;          /* 28 */
    uint32_t pid;          /* 32 */
    uint16_t total_extlen; /* 36 extensions at the end of the message, in 8-byte units */
    uint16_t padding;      /* 38 */
};

struct fw_out_header {
    uint32_t len;    /*  0 */
    int32_t error;   /*  4 0, a negative errno, or a notification's code */
    uint64_t unique; /*  8 */
};

struct fw_attr {
    uint64_t ino;       /*  0 */
    uint64_t size;      /*  8 */
    uint64_t blocks;    /* 16 of 512 bytes */
    uint64_t atime;     /* 24 seconds, signed in effect */
    uint64_t mtime;     /* 32 */
    uint64_t ctime;     /* 40 */
    uint32_t atimensec; /* 48 */
    uint32_t mtimensec; /* 52 */
    uint32_t ctimensec; /* 56 */
    uint32_t mode;      /* 60 */
    uint32_t nlink;     /* 64 */
    uint32_t uid;       /* 68 */
    uint32_t gid;       /* 72 */
    uint32_t rdev;      /* 76 */
    uint32_t blksize;   /* 80 */
    uint32_t flags;     /* 84 */
};

struct fw_init_in {
    uint32_t major;         /*  0 */
    uint32_t minor;         /*  4 */
    uint32_t max_readahead; /*  8 bytes */
    uint32_t flags;         /* 12 */
};

struct fw_init_in_ext { /* follows fw_init_in from 7.36 on */
    uint32_t flags2;     /* 0 */
    uint32_t unused[11]; /* 4 */
};

struct fw_init_out {
    uint32_t major;                /*  0 */
    uint32_t minor;                /*  4 */
    uint32_t max_readahead;        /*  8 bytes */
    uint32_t flags;                /* 12 */
    uint16_t max_background;       /* 16 */
    uint16_t congestion_threshold; /* 18 */
    uint32_t max_write;            /* 20 bytes */
    uint32_t time_gran;            /* 24 ns */
    uint16_t max_pages;            /* 28 of 4 KiB, per request */
    uint16_t map_alignment;        /* 30 */
    uint32_t flags2;               /* 32 */
    uint32_t max_stack_depth;      /* 36 */
    uint16_t request_timeout;      /* 40 seconds, 0 = none */
    uint16_t unused[11];           /* 42 */
};

struct fw_entry_out {
    uint64_t nodeid;           /*  0 0 = known to be absent */
    uint64_t generation;       /*  8 */
    uint64_t entry_valid;      /* 16 seconds the name may be used unasked */
    uint64_t attr_valid;       /* 24 seconds */
    uint32_t entry_valid_nsec; /* 32 */
    uint32_t attr_valid_nsec;  /* 36 */
    struct fw_attr attr;       /* 40 */
};

struct fw_attr_out {
    uint64_t attr_valid;      /*  0 seconds */
    uint32_t attr_valid_nsec; /*  8 */
    uint32_t padding;         /* 12 */
    struct fw_attr attr;      /* 16 */
};

struct fw_time {
    int64_t sec;      /*  0 */
    uint32_t nsec;    /*  8 */
    int32_t reserved; /* 12 */
};

struct fw_statx_in {
    uint32_t getattr_flags; /*  0 */
    uint32_t reserved;      /*  4 */
    uint64_t fh;            /*  8 */
    uint32_t sx_flags;      /* 16 */
    uint32_t sx_mask;       /* 20 */
};

struct fw_statx_out {
    uint64_t attr_valid;      /*   0 seconds */
    uint32_t attr_valid_nsec; /*   8 */
    uint32_t flags;           /*  12 */
    uint64_t spare[2];        /*  16 */
    uint32_t mask;            /*  32 STATX_* that are filled in */
    uint32_t blksize;         /*  36 */
    uint64_t attributes;      /*  40 */
    uint32_t nlink;           /*  48 */
    uint32_t uid;             /*  52 */
    uint32_t gid;             /*  56 */
    uint16_t mode;            /*  60 */
    uint16_t spare0;          /*  62 */
    uint64_t ino;             /*  64 */
    uint64_t size;            /*  72 */
    uint64_t blocks;          /*  80 */
    uint64_t attributes_mask; /*  88 */
    struct fw_time atime;     /*  96 */
    struct fw_time btime;     /* 112 */
    struct fw_time ctime;     /* 128 */
    struct fw_time mtime;     /* 144 */
    uint32_t rdev_major;      /* 160 */
    uint32_t rdev_minor;      /* 164 */
    uint32_t dev_major;       /* 168 */
    uint32_t dev_minor;       /* 172 */
    uint64_t spare2[14];      /* 176 */
};

struct fw_forget_in {
    uint64_t nlookup; /* 0 */
};

struct fw_forget_one {
    uint64_t nodeid;  /* 0 */
    uint64_t nlookup; /* 8 */
};

struct fw_batch_forget_in { /* then count times fw_forget_one */
    uint32_t count;   /* 0 */
    uint32_t padding; /* 4 */
};

struct fw_getattr_in {
    uint32_t getattr_flags; /* 0 */
    uint32_t padding;       /* 4 */
    uint64_t fh;            /* 8 */
};

struct fw_setattr_in {
    uint32_t valid;      /*  0 */
    uint32_t padding;    /*  4 */
    uint64_t fh;         /*  8 */
    uint64_t size;       /* 16 */
    uint64_t lock_owner; /* 24 */
    uint64_t atime;      /* 32 */
    uint64_t mtime;      /* 40 */
    uint64_t ctime;      /* 48 */
    uint32_t atimensec;  /* 56 */
    uint32_t mtimensec;  /* 60 */
    uint32_t ctimensec;  /* 64 */
    uint32_t mode;       /* 68 */
    uint32_t unused4;    /* 72 */
    uint32_t uid;        /* 76 */
    uint32_t gid;        /* 80 */
    uint32_t unused5;    /* 84 */
};

struct fw_mknod_in { /* then name */
    uint32_t mode;    /*  0 */
    uint32_t rdev;    /*  4 */
    uint32_t umask;   /*  8 */
    uint32_t padding; /* 12 */
};

struct fw_mkdir_in { /* then name */
    uint32_t mode;  /* 0 */
    uint32_t umask; /* 4 */
};

struct fw_rename_in { /* then old name, new name */
    uint64_t newdir; /* 0 */
};

struct fw_rename2_in { /* then old name, new name */
    uint64_t newdir;  /*  0 */
    uint32_t flags;   /*  8 RENAME_* */
    uint32_t padding; /* 12 */
};

struct fw_link_in { /* then new name; header.nodeid is the new parent */
    uint64_t oldnodeid; /* 0 */
};

struct fw_open_in {
    uint32_t flags;      /* 0 O_* */
    uint32_t open_flags; /* 4 */
};

struct fw_create_in { /* then name */
    uint32_t flags;      /*  0 O_* */
    uint32_t mode;       /*  4 */
    uint32_t umask;      /*  8 */
    uint32_t open_flags; /* 12 */
};

struct fw_open_out {
    uint64_t fh;         /*  0 */
    uint32_t open_flags; /*  8 */
    int32_t backing_id;  /* 12 */
};

struct fw_release_in {
    uint64_t fh;            /*  0 */
    uint32_t flags;         /*  8 */
    uint32_t release_flags; /* 12 */
    uint64_t lock_owner;    /* 16 */
};

struct fw_flush_in {
    uint64_t fh;         /*  0 */
    uint32_t unused;     /*  8 */
    uint32_t padding;    /* 12 */
    uint64_t lock_owner; /* 16 */
};

struct fw_read_in { /* READ, READDIR, READDIRPLUS */
    uint64_t fh;         /*  0 */
    uint64_t offset;     /*  8 */
    uint32_t size;       /* 16 */
    uint32_t read_flags; /* 20 */
    uint64_t lock_owner; /* 24 */
    uint32_t flags;      /* 32 */
    uint32_t padding;    /* 36 */
};

struct fw_write_in { /* then size bytes */
    uint64_t fh;          /*  0 */
    uint64_t offset;      /*  8 */
    uint32_t size;        /* 16 */
    uint32_t write_flags; /* 20 */
    uint64_t lock_owner;  /* 24 */
    uint32_t flags;       /* 32 */
    uint32_t padding;     /* 36 */
};

struct fw_write_out {
    uint32_t size;    /* 0 */
    uint32_t padding; /* 4 */
};

struct fw_statfs_out {
    uint64_t blocks;   /*  0 of frsize bytes */
    uint64_t bfree;    /*  8 */
    uint64_t bavail;   /* 16 */
    uint64_t files;    /* 24 */
    uint64_t ffree;    /* 32 */
    uint32_t bsize;    /* 40 */
    uint32_t namelen;  /* 44 */
    uint32_t frsize;   /* 48 */
    uint32_t padding;  /* 52 */
    uint32_t spare[6]; /* 56 */
};

struct fw_fsync_in {
    uint64_t fh;          /*  0 */
    uint32_t fsync_flags; /*  8 */
    uint32_t padding;     /* 12 */
};

struct fw_setxattr_in { /* then name, size bytes; only the first 8 bytes unless FW_CAP_SETXATTR_EXT is agreed */
    uint32_t size;           /*  0 */
    uint32_t flags;          /*  4 XATTR_CREATE, XATTR_REPLACE */
    uint32_t setxattr_flags; /*  8 */
    uint32_t padding;        /* 12 */
};

struct fw_getxattr_in { /* then, for GETXATTR, name */
    uint32_t size;    /* 0 0 = how large is it? */
    uint32_t padding; /* 4 */
};

struct fw_getxattr_out { /* the reply to size 0; otherwise the value itself */
    uint32_t size;    /* 0 */
    uint32_t padding; /* 4 */
};

struct fw_lk_in {
    uint64_t fh;       /*  0 */
    uint64_t owner;    /*  8 */
    uint64_t start;    /* 16 */
    uint64_t end;      /* 24 inclusive */
    uint32_t type;     /* 32 F_RDLCK, F_WRLCK, F_UNLCK */
    uint32_t pid;      /* 36 */
    uint32_t lk_flags; /* 40 */
    uint32_t padding;  /* 44 */
};

struct fw_lk_out {
    uint64_t start; /*  0 */
    uint64_t end;   /*  8 */
    uint32_t type;  /* 16 */
    uint32_t pid;   /* 20 */
};

struct fw_access_in {
    uint32_t mask;    /* 0 */
    uint32_t padding; /* 4 */
};

struct fw_interrupt_in {
    uint64_t unique; /* 0 of the request to be interrupted */
};

struct fw_fallocate_in {
    uint64_t fh;      /*  0 */
    uint64_t offset;  /*  8 */
    uint64_t length;  /* 16 */
    uint32_t mode;    /* 24 FALLOC_FL_* */
    uint32_t padding; /* 28 */
};

struct fw_lseek_in {
    uint64_t fh;      /*  0 */
    uint64_t offset;  /*  8 */
    uint32_t whence;  /* 16 */
    uint32_t padding; /* 20 */
};

struct fw_lseek_out {
    uint64_t offset; /* 0 */
};

struct fw_copy_file_range_in {
    uint64_t fh_in;      /*  0 */
    uint64_t off_in;     /*  8 */
    uint64_t nodeid_out; /* 16 */
    uint64_t fh_out;     /* 24 */
    uint64_t off_out;    /* 32 */
    uint64_t len;        /* 40 */
    uint64_t flags;      /* 48 */
};

struct fw_copy_file_range_out { /* COPY_FILE_RANGE_64; the older opcode answers fw_write_out */
    uint64_t bytes_copied; /* 0 */
};

struct fw_dirent { /* then name, zero-padded to 8 bytes */
    uint64_t ino;     /*  0 */
    uint64_t off;     /*  8 where to go on after this entry */
    uint32_t namelen; /* 16 */
    uint32_t type;    /* 20 S_IFMT >> 12 */
};

struct fw_notify_inval_inode_out {
    uint64_t ino; /*  0 */
    int64_t off;  /*  8 negative: attributes only */
    int64_t len;  /* 16 0 or less: to the end */
};

struct fw_notify_inval_entry_out { /* then name, NUL */
    uint64_t parent;  /*  0 */
    uint32_t namelen; /*  8 */
    uint32_t flags;   /* 12 */
};

struct fw_notify_delete_out { /* then name, NUL */
    uint64_t parent;  /*  0 */
    uint64_t child;   /*  8 */
    uint32_t namelen; /* 16 */
    uint32_t padding; /* 20 */
};

struct fw_notify_store_out { /* then size bytes */
    uint64_t nodeid;  /*  0 */
    uint64_t offset;  /*  8 */
    uint32_t size;    /* 16 */
    uint32_t padding; /* 20 */
};

#define FW_SIZE(type, n) _Static_assert(sizeof(struct type) == (n), "wire size of " #type)
FW_SIZE(fw_in_header, 40);
FW_SIZE(fw_out_header, 16);
FW_SIZE(fw_attr, 88);
FW_SIZE(fw_init_in, 16);
FW_SIZE(fw_init_in_ext, 48);
FW_SIZE(fw_init_out, 64);
FW_SIZE(fw_entry_out, 128);
FW_SIZE(fw_attr_out, 104);
FW_SIZE(fw_statx_in, 24);
FW_SIZE(fw_statx_out, 288);
FW_SIZE(fw_setattr_in, 88);
FW_SIZE(fw_read_in, 40);
FW_SIZE(fw_write_in, 40);
FW_SIZE(fw_statfs_out, 80);
FW_SIZE(fw_setxattr_in, 16);
FW_SIZE(fw_lk_in, 48);
FW_SIZE(fw_fallocate_in, 32);
FW_SIZE(fw_copy_file_range_in, 56);
FW_SIZE(fw_dirent, 24);
FW_SIZE(fw_notify_delete_out, 24);
FW_SIZE(fw_notify_store_out, 24);
#undef FW_SIZE

#endif
