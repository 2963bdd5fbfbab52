/* Mapping a file without keeping, or ever closing, a descriptor of it in this process's table. */
#ifndef CAIRN_ARENA_WATCH_H
#define CAIRN_ARENA_WATCH_H

#include <stddef.h>
#include <stdint.h>

/* POSIX drops all fcntl locks of a process on a file when it closes any descriptor of that file, and SQLite has such locks on the
 * file that is watched. So it is opened and closed by a thread with a table of descriptors of its own. 0, or a negative errno;
 * -EINVAL when the file is shorter. */
int ar_map_file(const char *path, size_t n_bytes, const uint8_t **out);
void ar_unmap_file(const uint8_t *base, size_t n_bytes);

#endif
