/* One object as a file: made or read by one call, so that the interpreter is let go of once, and not for each system call.
 *
 * What the functions promise is said in file_io.pyi. Nothing is kept between calls. Errors are negative errnos.
 */
#ifndef CAIRN_FILE_IO_IMPL_H
#define CAIRN_FILE_IO_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { FILE_IO_NO_UNNAMED = 1 }; /* nothing was done: this file system has no unnamed files */

/* Store bytes under a new name: into an unnamed file in `folder`, which then gets its name `path`, and is synced if `sync`. What fails
 * is undone. `parts` are used up. 0, FILE_IO_NO_UNNAMED, or an error. */
int file_io_put(const char *folder, const char *path, struct iovec *parts, size_t n_parts, int sync);

/* Sync all of the file system that a folder is in. 0, or an error, of this or of what was written since somebody last asked. */
int file_io_sync(const char *folder);

/* Have the file system place the folders that are made in `folder` apart, each with what is in it, if it is one that can (ext4).
 * 1, 0 if it cannot, or an error. */
int file_io_spread(const char *folder);

/* Read into `data` from `offset` on. Bytes read, fewer than n_bytes only at the end of the file; or an error. */
ssize_t file_io_get(const char *path, uint64_t offset, void *data, size_t n_bytes);

#endif
