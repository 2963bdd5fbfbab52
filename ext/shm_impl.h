/* Shared memory that may be handed to another process.
 *
 * A memfd of fixed size, sealed against resizing: whoever has mapped it can touch every byte of it, whatever others do with their
 * descriptors. Memory received from elsewhere is mapped only if it is of this kind. Ownership: whoever has the descriptor closes
 * it; the memory goes with its last descriptor and its last mapping. */
#ifndef CAIRN_SHM_IMPL_H
#define CAIRN_SHM_IMPL_H

#include <stddef.h>

/* Make `n_bytes` of zeros, the first `n_reserved` of which are there for sure: to touch others is SIGBUS when there is no memory. The
 * descriptor, or a negative errno. */
int shm_create(const char *name, size_t n_bytes, size_t n_reserved);

/* Map all of it for reading and writing. 0, or a negative errno: -EINVAL when it is not exactly `n_bytes` long or may be resized. */
int shm_map(int fd, size_t n_bytes, void **base);

#endif
