#define _GNU_SOURCE
#include "file_io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MODE = 0644, MOST_PARTS = 512 /* IOV_MAX is 1024 on Linux */ };

static int is_no_unnamed(int error)
{
    return error == EOPNOTSUPP || error == EISDIR || error == EINVAL || error == ENOSYS;
}

/* open() that a signal does not end, as Python's own. A descriptor, or a negative errno. */
static int open_file(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, MODE);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

/* All of the parts, however many calls that takes. */
static int write_all(int fd, struct iovec *parts, size_t n_parts)
{
    while (n_parts) {
        if (parts->iov_len == 0) {
            parts++;
            n_parts--;
            continue;
        }
        ssize_t n = writev(fd, parts, (int)(n_parts < MOST_PARTS ? n_parts : MOST_PARTS));
        if (n < 0 && errno != EINTR)
            return -errno;
        for (size_t left = n > 0 ? (size_t)n : 0; left;) {
            size_t of_this = left < parts->iov_len ? left : parts->iov_len;
            parts->iov_base = (uint8_t *)parts->iov_base + of_this;
            parts->iov_len -= of_this;
            left -= of_this;
            if (parts->iov_len == 0) {
                parts++;
                n_parts--;
            }
        }
    }
    return 0;
}

static int give_name(int fd, const char *path)
{
    char at[32];
    snprintf(at, sizeof at, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, at, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int sync_all(int fd)
{
    while (fsync(fd) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int file_io_put(const char *folder, const char *path, struct iovec *parts, size_t n_parts, int sync)
{
    int fd = open_file(folder, O_WRONLY | O_TMPFILE);
    if (fd < 0)
        return is_no_unnamed(-fd) ? FILE_IO_NO_UNNAMED : fd;
    int error = write_all(fd, parts, n_parts);
    if (!error)
        error = give_name(fd, path);
    if (!error && sync) {
        error = sync_all(fd);
        if (error)
            unlink(path);
    }
    close(fd);
    return error;
}

int file_io_sync(const char *folder)
{
    int fd = open_file(folder, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    int error = syncfs(fd) < 0 ? -errno : 0;
    close(fd);
    return error;
}

int file_io_spread(const char *folder)
{
    int fd = open_file(folder, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    int flags = 0; /* whatever the number of the call says about a long */
    int can = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
    if (can && !(flags & FS_TOPDIR_FL)) {
        flags |= FS_TOPDIR_FL;
        can = ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    }
    close(fd);
    return can;
}

ssize_t file_io_get(const char *path, uint64_t offset, void *data, size_t n_bytes)
{
    int fd = open_file(path, O_RDONLY);
    size_t done = 0;
    ssize_t n = 1;
    if (fd < 0)
        return fd;
    while (done < n_bytes && n != 0) { /* a signal or a network file system may cut a read short */
        n = pread(fd, (uint8_t *)data + done, n_bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            n = -errno;
            close(fd);
            return n;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    return (ssize_t)done;
}
