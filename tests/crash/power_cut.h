/* What a power cut leaves: all that an fsync made durable, and of the rest as little as may be. */

#ifndef POWER_CUT_H
#define POWER_CUT_H

#include <sys/types.h>

/* What is overwritten or removed is kept in this folder, on the same disk, to be taken back. */
void power_arm(const char *folder);

/* The bytes of the file behind fd are about to change. */
void power_before_write(int fd);

/* An fsync of what had this size succeeded: a file's bytes or a folder's names are durable. */
void power_after_sync(int fd, off_t size);

/* A file or folder got its name. */
void power_after_create(const char *path, int is_folder);

/* Keep what has this name, if it is a file, and tell where; to be called before the name goes. */
char *power_keep(const char *path);

/* A name went: it is `from` no more; what was `path` before, if anything, was kept. */
void power_after_rename(const char *from, const char *path, char *kept);
void power_after_remove(const char *path, char *kept, int is_folder);

/* Take back what is not durable. Whoever writes meanwhile waits until the process is killed. */
void power_cut(void);

#endif
