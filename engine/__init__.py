"""cairnfs: a POSIX file system and an embeddable engine for training on small files, over object storage."""
