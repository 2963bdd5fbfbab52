#define _GNU_SOURCE
#include "shm_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int shm_create(const char *name, size_t n_bytes, size_t n_reserved)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int error = ftruncate(fd, (off_t)n_bytes) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ? errno : 0;
    if (!error && n_reserved)
        error = posix_fallocate(fd, 0, (off_t)n_reserved);
    if (error) {
        close(fd);
        return -error;
    }
    return fd;
}

int shm_map(int fd, size_t n_bytes, void **base)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    int seals = fcntl(fd, F_GET_SEALS); /* fails for what is no memfd */
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || n_bytes == 0 || st.st_size < 0 || (size_t)st.st_size != n_bytes)
        return -EINVAL;
    void *found = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (found == MAP_FAILED)
        return -errno;
    *base = found;
    return 0;
}
