/* Logs what a process does to the files below a folder, for a power cut that is simulated afterwards (power.py).
 *
 * Loaded before the C library (LD_PRELOAD). GIGA_POWER_ROOT names the folder, GIGA_POWER_LOG the log; without them
 * nothing is logged. A record is a line of words with tabs between them, in the order in which things happened: one
 * lock is held over each call and its record. Every file that is made gets a second name in the folder LOG.files, so
 * that its bytes can be had after it was removed or replaced, and its number is given to no other file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536
#define PATH 4096
#define REAL(name) ((__typeof__(&name))real(#name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int number_of[FILES]; /* by descriptor: of the file that it writes to; 0 for none that is logged */
static int files, log_fd = -1;

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void say(const char *format, ...) {
    char line[3 * PATH];
    va_list words;
    va_start(words, format);
    int n = vsnprintf(line, sizeof line, format, words);
    va_end(words);
    if (log_fd < 0)
        log_fd = REAL(open)(getenv("GIGA_POWER_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (REAL(write)(log_fd, line, n) != n) abort();
}

/* Whether a path is the folder, or below it; then `whole` is the path without a folder that it starts from. */
static int below(int folder, const char *path, char *whole) {
    const char *root = getenv("GIGA_POWER_ROOT");
    if (!root || !path) return 0;
    if (path[0] == '/') {
        snprintf(whole, PATH, "%s", path);
    } else {
        char from[PATH], link[64];
        if (folder == AT_FDCWD) {
            if (!getcwd(from, PATH)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t n = readlink(link, from, PATH - 1);
            if (n < 0) return 0;
            from[n] = 0;
        }
        if (snprintf(whole, PATH, "%s%s%s", from, *path ? "/" : "", path) >= PATH) abort();
    }
    size_t n = strlen(root);
    return !strncmp(whole, root, n) && (whole[n] == '/' || !whole[n]);
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char whole[PATH], kept[PATH], self[64];
    struct stat found;
    if ((flags & O_ACCMODE) == O_RDONLY || !below(folder, path, whole))
        return REAL(openat)(folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int there = !lstat(whole, &found);
    int fd = REAL(openat)(folder, path, flags, mode);
    if (fd >= 0) {
        if (fd >= FILES) abort();
        number_of[fd] = ++files;
        say("%s\t%d\t%s\n", there ? "change" : "create", files, whole);
        snprintf(kept, PATH, "%s.files/%d", getenv("GIGA_POWER_LOG"), files);
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        if (!there && REAL(linkat)(AT_FDCWD, self, AT_FDCWD, kept, AT_SYMLINK_FOLLOW)) abort();
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name, folder)                                                                                             \
    int name {                                                                                                         \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        return open_at(folder, path, flags, mode);                                                                     \
    }
OPEN(open(const char *path, int flags, ...), AT_FDCWD)
OPEN(open64(const char *path, int flags, ...), AT_FDCWD)
OPEN(openat(int folder, const char *path, int flags, ...), folder)
OPEN(openat64(int folder, const char *path, int flags, ...), folder)

int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (fd >= 0 && fd < FILES && number_of[fd]) {
        pthread_mutex_lock(&lock);
        number_of[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(fd);
}

/* Writes through `call`, which gives the number of bytes, to where `at` is: -1 for where the descriptor stands. */
#define LOGGED_WRITE(call, at)                                                                                         \
    if (fd < 0 || fd >= FILES || !number_of[fd]) return call;                                                          \
    pthread_mutex_lock(&lock);                                                                                         \
    ssize_t n = call;                                                                                                  \
    off_t start = (at) >= 0 ? (at) : lseek(fd, 0, SEEK_CUR) - n;                                                       \
    if (n > 0) say("write\t%d\t%lld\t%lld\n", number_of[fd], (long long)start, (long long)n);                          \
    pthread_mutex_unlock(&lock);                                                                                       \
    return n;

ssize_t write(int fd, const void *data, size_t size) { LOGGED_WRITE(REAL(write)(fd, data, size), (off_t)-1) }
ssize_t writev(int fd, const struct iovec *data, int count) { LOGGED_WRITE(REAL(writev)(fd, data, count), (off_t)-1) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { LOGGED_WRITE(REAL(pwrite)(fd, data, size, at), at) }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { LOGGED_WRITE(REAL(pwrite)(fd, data, size, at), at) }

/* Calls `call`; where that succeeds and the path is below the folder, says `what` of it. */
#define LOGGED(call, folder, path, what)                                                                               \
    char whole[PATH];                                                                                                  \
    if (!below(folder, path, whole)) return call;                                                                      \
    pthread_mutex_lock(&lock);                                                                                         \
    int failed = call;                                                                                                 \
    if (!failed) say("%s\t%s\n", what, whole);                                                                         \
    pthread_mutex_unlock(&lock);                                                                                       \
    return failed;

int unlink(const char *path) { LOGGED(REAL(unlink)(path), AT_FDCWD, path, "remove") }
int rmdir(const char *path) { LOGGED(REAL(rmdir)(path), AT_FDCWD, path, "remove") }
int unlinkat(int folder, const char *path, int flags) {
    LOGGED(REAL(unlinkat)(folder, path, flags), folder, path, "remove")
}
int mkdir(const char *path, mode_t mode) { LOGGED(REAL(mkdir)(path, mode), AT_FDCWD, path, "folder") }
int mkdirat(int folder, const char *path, mode_t mode) {
    LOGGED(REAL(mkdirat)(folder, path, mode), folder, path, "folder")
}
int symlink(const char *to, const char *path) { LOGGED(REAL(symlink)(to, path), AT_FDCWD, path, "symlink") }
int truncate(const char *path, off_t size) { LOGGED(REAL(truncate)(path, size), AT_FDCWD, path, "truncate") }
int ftruncate(int fd, off_t size) { LOGGED(REAL(ftruncate)(fd, size), fd, "", "truncate") }
int ftruncate64(int fd, off_t size) { LOGGED(REAL(ftruncate)(fd, size), fd, "", "truncate") }

/* The same of two paths, both of which must be below the folder. */
#define LOGGED_BOTH(call, folder, path, to_folder, to, what)                                                           \
    char whole[PATH], target[PATH];                                                                                    \
    int source_below = below(folder, path, whole), target_below = below(to_folder, to, target);                        \
    if (!source_below && !target_below) return call;                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    int failed = call;                                                                                                 \
    if (!failed) say("%s\t%s\t%s\n", source_below && target_below ? what : "across", whole, target);                   \
    pthread_mutex_unlock(&lock);                                                                                       \
    return failed;

int rename(const char *path, const char *to) {
    LOGGED_BOTH(REAL(rename)(path, to), AT_FDCWD, path, AT_FDCWD, to, "rename")
}
int renameat(int folder, const char *path, int to_folder, const char *to) {
    LOGGED_BOTH(REAL(renameat)(folder, path, to_folder, to), folder, path, to_folder, to, "rename")
}
int renameat2(int folder, const char *path, int to_folder, const char *to, unsigned flags) {
    LOGGED_BOTH(REAL(renameat2)(folder, path, to_folder, to, flags), folder, path, to_folder, to, "rename")
}
int link(const char *path, const char *to) {
    LOGGED_BOTH(REAL(link)(path, to), AT_FDCWD, path, AT_FDCWD, to, "link")
}
int linkat(int folder, const char *path, int to_folder, const char *to, int flags) {
    LOGGED_BOTH(REAL(linkat)(folder, path, to_folder, to, flags), folder, path, to_folder, to, "link")
}

/* A descriptor that is written through stands for its file, whatever its name is now; any other for its path. */
#define LOGGED_SYNC(call)                                                                                              \
    if (fd >= 0 && fd < FILES && number_of[fd]) {                                                                      \
        pthread_mutex_lock(&lock);                                                                                     \
        int failed = call;                                                                                             \
        if (!failed) say("sync\t%d\n", number_of[fd]);                                                                 \
        pthread_mutex_unlock(&lock);                                                                                   \
        return failed;                                                                                                 \
    }                                                                                                                  \
    LOGGED(call, fd, "", "settle")

int fsync(int fd) { LOGGED_SYNC(REAL(fsync)(fd)) }
int fdatasync(int fd) { LOGGED_SYNC(REAL(fdatasync)(fd)) }
