/* Remembers what is not yet durable, and takes it back: files lose what they grew by since their
last fsync, names that came or went since their folder's last fsync are as before.

A file that was renamed before it was synced is there and empty: a torn rename. */

#define _GNU_SOURCE
#include "power_cut.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 512, MAX_NAMES = 4096 };
enum what { DURABLE, MADE_FILE, MADE_FOLDER, RENAMED, REMOVED_FILE, REMOVED_FOLDER };

struct file { dev_t device; ino_t inode; int fd; off_t durable_size; };
struct name { enum what what; dev_t device; ino_t folder; char *path, *from, *kept; };

static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static struct file files[MAX_FILES];
static struct name names[MAX_NAMES];
static int file_count, name_count, kept_count;
static char kept_folder[PATH_MAX];

static void must(int holds)
{
    if (!holds) abort();
}

void power_arm(const char *folder)
{
    snprintf(kept_folder, sizeof kept_folder, "%s", folder);
}

static struct file *known(const struct stat *status)
{
    for (int i = 0; i < file_count; i++)
        if (files[i].inode == status->st_ino && files[i].device == status->st_dev) return &files[i];
    return NULL;
}

/* Its descriptor stays open: a file without one could give its inode's number to another. */
static struct file *added(int fd, const struct stat *status)
{
    must(file_count < MAX_FILES);
    struct file *file = &files[file_count++];
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    must(own >= 0);
    *file = (struct file){status->st_dev, status->st_ino, own, status->st_size};
    return file;
}

void power_before_write(int fd)
{
    struct stat status;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) return;
    pthread_mutex_lock(&changing);
    struct file *file = known(&status);
    if (!file) file = added(fd, &status);
    if (file->durable_size > status.st_size) file->durable_size = status.st_size;
    pthread_mutex_unlock(&changing);
}

void power_after_sync(int fd, off_t size)
{
    struct stat status;
    if (fstat(fd, &status)) return;
    pthread_mutex_lock(&changing);
    struct file *file = known(&status);
    if (file) file->durable_size = size;
    for (int i = 0; S_ISDIR(status.st_mode) && i < name_count; i++)
        if (names[i].folder == status.st_ino && names[i].device == status.st_dev)
            names[i].what = DURABLE;
    pthread_mutex_unlock(&changing);
}

static void note(enum what what, const char *path, const char *from, char *kept)
{
    char folder[PATH_MAX];
    struct stat status;
    snprintf(folder, sizeof folder, "%s", path);
    char *end = strrchr(folder, '/');
    must(end != NULL);
    *end = 0;
    if (stat(folder, &status)) return; /* which itself is gone by now */
    pthread_mutex_lock(&changing);
    must(name_count < MAX_NAMES);
    names[name_count++] = (struct name){
        what, status.st_dev, status.st_ino, strdup(path), from ? strdup(from) : NULL, kept};
    pthread_mutex_unlock(&changing);
}

void power_after_create(const char *path, int is_folder)
{
    note(is_folder ? MADE_FOLDER : MADE_FILE, path, NULL, NULL);
}

char *power_keep(const char *path)
{
    char kept[PATH_MAX];
    int number = __atomic_fetch_add(&kept_count, 1, __ATOMIC_SEQ_CST);
    snprintf(kept, sizeof kept, "%.4000s/%d", kept_folder, number);
    return link(path, kept) ? NULL : strdup(kept);
}

void power_after_rename(const char *from, const char *path, char *kept)
{
    note(RENAMED, path, from, kept);
}

void power_after_remove(const char *path, char *kept, int is_folder)
{
    note(is_folder ? REMOVED_FOLDER : REMOVED_FILE, path, NULL, kept);
}

/* What cannot be taken back, because what came later is durable, stays. */
static void take_back(const struct name *name)
{
    int failed = 0;
    switch (name->what) {
    case DURABLE: break;
    case MADE_FILE: failed = unlink(name->path); break;
    case MADE_FOLDER: failed = rmdir(name->path); break;
    case RENAMED: failed = rename(name->path, name->from); break;
    case REMOVED_FOLDER: failed = mkdir(name->path, 0777); break;
    case REMOVED_FILE: break;
    }
    if (!failed && name->kept && name->what != DURABLE) failed = rename(name->kept, name->path);
    (void)failed;
}

void power_cut(void)
{
    pthread_mutex_lock(&changing);
    for (int i = 0; i < file_count; i++) {
        struct stat status;
        if (fstat(files[i].fd, &status) || status.st_size <= files[i].durable_size) continue;
        must(!ftruncate(files[i].fd, files[i].durable_size));
    }
    for (int i = name_count; i-- > 0;) take_back(&names[i]);
}
