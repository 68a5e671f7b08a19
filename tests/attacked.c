/* System calls that change or read what lies below one folder are counted; at one of them something happens.

   cc -shared -fPIC -o attacked.so attacked.c -ldl, then LD_PRELOAD=attacked.so python attacked.py.
   Nothing is counted before `attack_begin` is called. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { GROWS = 1, CHANGES = 2, READS = 4, WAITS = 8, LOCKS = 16 }; /* WAITS: may be interrupted, and begun again */

static char home[4096];
static int is_ours[4096]; /* of file descriptors: whether the file lies below the folder */
static int kinds, signal_number, error_number, forever;
static long place, count;

void attack_begin(const char *folder, int which, long at, int signals, int fails, int for_good) {
    snprintf(home, sizeof home, "%s", folder);
    kinds = which, place = at, signal_number = signals, error_number = fails, forever = for_good;
    __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
}

long attack_count(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static int below(const char *path) {
    size_t length = strlen(home);
    if (path == NULL || length == 0) return 0;
    if (path[0] != '/') return 1; /* the folder is the current one */
    return strncmp(path, home, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int ours(int fd) { return home[0] && fd >= 0 && fd < 4096 && is_ours[fd]; }

/* Returns whether the call is to fail. */
static int hit(const char *name, int kind, int is_there) {
    if (!is_there || !(kind & kinds)) return 0;
    long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (now < place || (now > place && !forever)) return 0;
    if (now == place && getenv("ATTACK_LOG")) dprintf(2, "[%s]\n", name);
    if (signal_number && now == place) kill(getpid(), signal_number);
    if (error_number) errno = error_number;
    return error_number != 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP(result, name, parameters, arguments, kind, is_there)                                                      \
    result name parameters {                                                                                           \
        static __typeof__(&name) next;                                                                                 \
        if (!next) next = NEXT(name);                                                                                  \
        return hit(#name, kind, is_there) ? (result)-1 : next arguments;                                               \
    }

WRAP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), GROWS | WAITS, ours(fd))
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), GROWS | WAITS, ours(fd))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), GROWS | WAITS, ours(fd))
WRAP(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size), READS | WAITS, ours(fd))
WRAP(ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), READS | WAITS, ours(fd))
WRAP(ssize_t, pread64, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), READS | WAITS, ours(fd))
WRAP(ssize_t, sendfile, (int to, int from, off_t *at, size_t size), (to, from, at, size), GROWS | WAITS, ours(to))
WRAP(ssize_t, sendfile64, (int to, int from, off_t *at, size_t size), (to, from, at, size), GROWS | WAITS, ours(to))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), GROWS | WAITS, ours(fd))
WRAP(int, ftruncate64, (int fd, off_t size), (fd, size), GROWS | WAITS, ours(fd))
WRAP(int, fsync, (int fd), (fd), CHANGES | WAITS, ours(fd))
WRAP(int, fdatasync, (int fd), (fd), CHANGES | WAITS, ours(fd))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), GROWS, below(path))
WRAP(int, rename, (const char *old, const char *path), (old, path), GROWS, below(path))
WRAP(int, link, (const char *old, const char *path), (old, path), GROWS, below(path))
WRAP(int, unlink, (const char *path), (path), CHANGES, below(path))
WRAP(int, rmdir, (const char *path), (path), CHANGES, below(path))
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode), CHANGES, below(path))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode), CHANGES, ours(fd))
WRAP(int, unlinkat, (int at, const char *path, int flags), (at, path, flags), CHANGES, ours(at) || below(path))

static int opened(int fd, int is_there) {
    if (fd >= 0 && fd < 4096) is_ours[fd] = is_there;
    return fd;
}

#define KIND (((flags & O_CREAT) ? GROWS : READS) | WAITS)

#define WRAP_OPEN(name)                                                                                                \
    int name(const char *path, int flags, ...) {                                                                       \
        static __typeof__(&name) next;                                                                                 \
        if (!next) next = NEXT(name);                                                                                  \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = va_arg(more, mode_t);                                                                            \
        va_end(more);                                                                                                  \
        int is_there = below(path);                                                                                    \
        return hit(#name, KIND, is_there) ? -1 : opened(next(path, flags, mode), is_there);                            \
    }

#define WRAP_OPENAT(name)                                                                                              \
    int name(int at, const char *path, int flags, ...) {                                                               \
        static __typeof__(&name) next;                                                                                 \
        if (!next) next = NEXT(name);                                                                                  \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = va_arg(more, mode_t);                                                                            \
        va_end(more);                                                                                                  \
        int is_there = path[0] != '/' && at != AT_FDCWD ? ours(at) : below(path);                              \
        return hit(#name, KIND, is_there) ? -1 : opened(next(at, path, flags, mode), is_there);                        \
    }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)

#define WRAP_LOCK(name)                                                                                                \
    int name(int fd, int command, ...) {                                                                               \
        static __typeof__(&name) next;                                                                                 \
        if (!next) next = NEXT(name);                                                                                  \
        va_list more;                                                                                                  \
        va_start(more, command);                                                                                       \
        void *argument = va_arg(more, void *);                                                                         \
        va_end(more);                                                                                                  \
        int locks = command == F_SETLK || command == F_SETLKW;                                                         \
        return hit(#name, LOCKS, locks && ours(fd)) ? -1 : next(fd, command, argument);                              \
    }

WRAP_LOCK(fcntl)
WRAP_LOCK(fcntl64)

int close(int fd) {
    static __typeof__(&close) next;
    if (!next) next = NEXT(close);
    if (fd >= 0 && fd < 4096) is_ours[fd] = 0;
    return next(fd);
}
