"""Notifications: what the kernel must forget, or is given, without having asked."""

from libc.errno cimport EINVAL, ENODEV, ENOENT, ENOSYS, ENOTDIR, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.fcntl cimport fcntl
from posix.uio cimport iovec
from posix.unistd cimport close

from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.fuse_req cimport FC_MAX_TOLD, fc_write

import os
from array import array

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_DUPFD_CLOEXEC


cdef class Notifier:
    """The half of a channel that speaks first."""

    # Notifying. Never from a thread that serves a request of the same inode or directory: the kernel may wait for that.

    cdef bint notify(self, int code, iovec *iov, int n_iov) except -1:
        """False when the kernel does not know what the notification is about, or the kind of notification.

        Written to a copy of the descriptor, since this may take as long as a request does, and the end must not wait.
        """
        cdef int result
        cdef int fd = self.notify_fd()
        if fd < 0:
            return False
        with nogil:
            result = fc_write(fd, 0, code, iov, n_iov)
            close(fd)
        if result == 0:
            return True
        if result == -ENOENT or result == -ENOTDIR or result == -ENODEV or result == -ENOSYS or result == -EINVAL:
            return False
        raise OSError(-result, os.strerror(-result))

    cdef int notify_fd(self) except -2:
        """A copy of the descriptor, for the caller to close; -1 when the channel has ended."""
        cdef int fd
        with self.ending:
            if self.over:
                return -1
            fd = fcntl(self.chan.dev_fd, F_DUPFD_CLOEXEC, 0)
        if fd < 0:
            raise OSError(errno, os.strerror(errno))
        return fd

    def known(self, list inos not None):
        """Of these inodes, those that the kernel may know."""
        return [ino for ino in inos if self.chan.is_known(self.chan, ino)]

    def inval_inode(self, uint64_t ino, int64_t offset=0, int64_t length=0):
        """Forget attributes and the pages of a range: `length` 0 is to the end, a negative `offset` is no pages."""
        cdef fw.fw_notify_inval_inode_out body
        cdef iovec[2] iov
        self.chan.let_go(self.chan, ino)
        body.ino = ino
        body.off = offset
        body.len = length
        iov[1].iov_base = &body
        iov[1].iov_len = sizeof(body)
        return self.notify(fw.FW_NOTIFY_INVAL_INODE, iov, 2)

    def inval_entry(self, uint64_t parent, bytes name, *, bint expire_only=False):
        """Forget a name. `expire_only`: just look it up again at its next use, which keeps what is open or mounted there."""
        cdef fw.fw_notify_inval_entry_out body
        cdef iovec[3] iov
        body.parent = parent
        body.namelen = <uint32_t>len(name)
        body.flags = 0
        if expire_only and self.chan.caps & fw.FW_CAP_HAS_EXPIRE_ONLY:
            body.flags = fw.FW_EXPIRE_ONLY
        iov[1].iov_base = &body
        iov[1].iov_len = sizeof(body)
        iov[2].iov_base = <char *>name
        iov[2].iov_len = len(name) + 1
        return self.notify(fw.FW_NOTIFY_INVAL_ENTRY, iov, 3)

    def delete(self, uint64_t parent, uint64_t child, bytes name):
        """A name is gone: forget it, and tell who watches it (inotify)."""
        cdef fw.fw_notify_delete_out body
        cdef iovec[3] iov
        body.padding = 0
        body.parent = parent
        body.child = child
        body.namelen = <uint32_t>len(name)
        iov[1].iov_base = &body
        iov[1].iov_len = sizeof(body)
        iov[2].iov_base = <char *>name
        iov[2].iov_len = len(name) + 1
        return self.notify(fw.FW_NOTIFY_DELETE, iov, 3)

    def store(self, uint64_t ino, uint64_t offset, const uint8_t[::1] data not None):
        """Put bytes into the page cache of an inode the kernel knows."""
        cdef fw.fw_notify_store_out body
        cdef iovec[3] iov
        body.padding = 0
        body.nodeid = ino
        body.offset = offset
        body.size = <uint32_t>data.shape[0]
        iov[1].iov_base = &body
        iov[1].iov_len = sizeof(body)
        iov[2].iov_base = <void *>&data[0] if data.shape[0] else NULL
        iov[2].iov_len = data.shape[0]
        return self.notify(fw.FW_NOTIFY_STORE, iov, 3)

    def inval_attributes(self, list inos not None):
        """Forget the attributes of inodes. Takes no lock of the kernel's: allowed while serving."""
        cdef uint64_t[::1] numbers
        if inos:
            numbers = array("Q", inos)
            self.notify_each(&numbers[0], numbers.shape[0], -1)

    def inval_own(self, list inos not None):
        """The same for inodes that a commit of this process has changed: where the present thread serves a request that changes
        names, just before the reply to that.
        """
        cdef uint64_t[FC_MAX_TOLD] few
        cdef size_t n = len(inos), i
        if n <= FC_MAX_TOLD:
            for i in range(n):
                few[i] = inos[i]
            if self.chan.tell_later(self.chan, few, n):
                return
        self.inval_attributes(inos)

    cdef int notify_each(self, const uint64_t *inos, size_t n, int64_t offset) except -1:
        """INVAL_INODE for each. That the kernel does not know an inode is no error; one that hangs up ends it."""
        cdef fw.fw_notify_inval_inode_out body
        cdef iovec[2] iov
        cdef int result = 0
        cdef size_t i
        cdef int fd = self.notify_fd()
        if fd < 0:
            return 0
        body.off = offset
        body.len = 0
        iov[1].iov_base = &body
        iov[1].iov_len = sizeof(body)
        with nogil:
            for i in range(n):
                body.ino = inos[i]
                self.chan.let_go(self.chan, body.ino)
                result = fc_write(fd, 0, fw.FW_NOTIFY_INVAL_INODE, iov, 2)
                if result < 0 and result != -ENOENT:
                    break
            close(fd)
        if result == 0 or result == -ENOENT or result == -ENODEV:
            return 0
        raise OSError(-result, os.strerror(-result))

    def inc_epoch(self):
        """Look up every name of the mount again at its next use. False on kernels before 6.16."""
        cdef iovec[1] iov
        self.chan.let_go(self.chan, 0)
        return self.notify(fw.FW_NOTIFY_INC_EPOCH, iov, 1)
