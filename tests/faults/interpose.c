/* Faults at the k-th call that changes files under a folder, for LD_PRELOAD.

   FAULT_ROOT     only calls on files under this absolute folder are counted
   FAULT_ROLE     only processes whose command line holds this text act
   FAULT_CALLS    the kinds that are counted, as in ",write,sync,"
   FAULT_FOLDER   only calls on what is directly in a folder of this name are counted
   FAULT_NAME     only those on names that begin so, but for a dot
   FAULT_AT       the number of the call, from 1, that is disturbed
   FAULT_ACTION   kill-before | kill-after | torn-kill | torn-fail | fail-once | fail-on
   FAULT_ERRNO    what a failing call answers
   FAULT_ONCE     a file that is made at the fault: where it is there already, there is none
   FAULT_TRACE    a file that gets "role<TAB>kind<TAB>path<TAB>source" for every counted call
   FAULT_CLOCK    seconds that are added to the time of day

   An action of "torn" is one on a write of which the first half arrives. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum fate { PASS, FAIL, TORN_FAIL, TORN_KILL, KILL_AFTER };

static const char *root, *calls, *action, *trace, *role_name = "other";
static long at, clock_offset;
static int error_number = ENOSPC, active;
static atomic_long counted;
static atomic_int failing;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static int command_line_holds(const char *text) {
    char line[8192];
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    long size = fd < 0 ? 0 : syscall(SYS_read, fd, line, sizeof line - 1);
    if (fd >= 0) syscall(SYS_close, fd);
    for (long i = 0; i < size; i++)
        if (!line[i]) line[i] = ' ';
    line[size > 0 ? size : 0] = 0;
    return strstr(line, text) != NULL;
}

__attribute__((constructor)) static void begin(void) {
    root = setting("FAULT_ROOT"), calls = setting("FAULT_CALLS");
    action = setting("FAULT_ACTION"), trace = setting("FAULT_TRACE");
    at = setting("FAULT_AT") ? atol(setting("FAULT_AT")) : 0;
    clock_offset = setting("FAULT_CLOCK") ? atol(setting("FAULT_CLOCK")) : 0;
    if (setting("FAULT_ERRNO")) error_number = atoi(setting("FAULT_ERRNO"));
    if (command_line_holds("spawn_main")) role_name = "worker";
    else if (command_line_holds("/scripts/")) role_name = "entry";
    else if (command_line_holds("-m snakemake")) role_name = "driver";
    const char *role = setting("FAULT_ROLE");
    active = root && (!role || !strcmp(role, role_name));
}

static void append(const char *path, const char *text) {
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0) return;
    syscall(SYS_write, fd, text, strlen(text));
    syscall(SYS_close, fd);
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

static int under_root(const char *path) {
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static const char *path_of(int fd, char *buffer) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, name, buffer, PATH_MAX - 1);
    buffer[size > 0 ? size : 0] = 0;
    return buffer;
}

static const char *absolute(int folder, const char *path, char *buffer) {
    char base[PATH_MAX];
    if (!path || path[0] == '/') return path ? path : "";
    if (folder != AT_FDCWD) path_of(folder, base);
    else if (syscall(SYS_getcwd, base, sizeof base) < 0) return "";
    snprintf(buffer, PATH_MAX, "%.2000s/%.2000s", base, path);
    return buffer;
}

/* Whether the call is on one of the files that are to be disturbed. */
static int is_chosen(const char *path) {
    const char *folder = setting("FAULT_FOLDER"), *name = setting("FAULT_NAME");
    const char *base = strrchr(path, '/'), *above = base;
    if (!base) return 0;
    while (above > path && above[-1] != '/') above--;
    base += base[1] == '.' ? 2 : 1;
    if (name && strncmp(base, name, strlen(name))) return 0;
    return !folder || (!strncmp(above, folder, strlen(folder)) && above[strlen(folder)] == '/');
}

static int takes_room(const char *kind) { return strcmp(kind, "unlink") && strcmp(kind, "sync"); }

static void note(const char *kind, const char *path, const char *source) {
    char text[2 * PATH_MAX + 64];
    if (!trace || !root || !under_root(path)) return;
    snprintf(text, sizeof text, "%s\t%s\t%s\t%s\n", role_name, kind, path, source);
    append(trace, text);
}

/* What is to become of this call; one that fails finds errno set. */
static enum fate judge(const char *kind, const char *path) {
    char text[PATH_MAX + 64];
    if (!active || !under_root(path)) return PASS;
    if (!action) return PASS;
    if (atomic_load(&failing)) {
        /* A full disk still lets files go, a broken one nothing. */
        if (error_number == ENOSPC && !takes_room(kind)) return PASS;
        errno = error_number;
        return FAIL;
    }
    snprintf(text, sizeof text, ",%s,", kind);
    if (!calls || !strstr(calls, text) || !is_chosen(path)) return PASS;
    if (atomic_fetch_add(&counted, 1) + 1 != at) return PASS;
    if (setting("FAULT_ONCE")) {
        int flags = O_WRONLY | O_CREAT | O_EXCL;
        int fd = syscall(SYS_openat, AT_FDCWD, setting("FAULT_ONCE"), flags, 0644);
        if (fd < 0) return PASS;
        syscall(SYS_close, fd);
    }
    if (!strcmp(action, "kill-before")) die();
    if (!strcmp(action, "kill-after")) return KILL_AFTER;
    if (!strcmp(action, "torn-kill")) return TORN_KILL;
    if (!strcmp(action, "torn-fail")) {
        atomic_store(&failing, 1);
        return TORN_FAIL;
    }
    if (!strcmp(action, "fail-on")) atomic_store(&failing, 1);
    errno = error_number;
    return FAIL;
}

#define CALL(kind, path, source, expression)                    \
    do {                                                        \
        const char *place = path;                               \
        enum fate fate = judge(kind, place);                    \
        if (fate == FAIL) return -1;                            \
        int result = expression;                                \
        if (result >= 0) note(kind, place, source);             \
        if (fate != PASS) die();                                \
        return result;                                          \
    } while (0)

#define WRITE(path, whole, half)                                \
    do {                                                        \
        const char *place = path;                               \
        enum fate fate = judge("write", place);                 \
        if (fate == FAIL) return -1;                            \
        int torn = fate == TORN_KILL || fate == TORN_FAIL;      \
        ssize_t result = torn ? half : whole;                   \
        note("write", place, "");                               \
        if (fate == TORN_KILL || fate == KILL_AFTER) die();     \
        return result;                                          \
    } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    WRITE(path_of(fd, path), syscall(SYS_write, fd, data, size),
          syscall(SYS_write, fd, data, (size + 1) / 2));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    char path[PATH_MAX];
    WRITE(path_of(fd, path), syscall(SYS_pwrite64, fd, data, size, offset),
          syscall(SYS_pwrite64, fd, data, (size + 1) / 2, offset));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    WRITE(path_of(fd, path), syscall(SYS_writev, fd, parts, count),
          syscall(SYS_write, fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2));
}

/* libc's own buffers reach the kernel by calls inside libc, which nobody can take the place of. */
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    char path[PATH_MAX];
    enum fate fate = active ? judge("write", path_of(fileno(file), path)) : PASS;
    if (fate == FAIL) return 0;
    int torn = fate == TORN_KILL || fate == TORN_FAIL;
    if (active) note("write", path, "");
    size_t result = REAL(fwrite)(data, size, torn ? count / 2 : count, file);
    if (fate != PASS) fflush(file);
    if (fate == TORN_KILL || fate == KILL_AFTER) die();
    if (fate == TORN_FAIL) errno = error_number;
    return result;
}

int fsync(int fd) {
    char path[PATH_MAX];
    CALL("sync", path_of(fd, path), "", syscall(SYS_fsync, fd));
}

int fdatasync(int fd) {
    char path[PATH_MAX];
    CALL("sync", path_of(fd, path), "", syscall(SYS_fdatasync, fd));
}

int ftruncate64(int fd, off64_t size) {
    char path[PATH_MAX];
    CALL("truncate", path_of(fd, path), "", syscall(SYS_ftruncate, fd, size));
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int renameat2(int from, const char *source, int to, const char *target, unsigned flags) {
    char path[PATH_MAX], old[PATH_MAX];
    CALL("rename", absolute(to, target, path), absolute(from, source, old),
         syscall(SYS_renameat2, from, source, to, target, flags));
}

int renameat(int from, const char *source, int to, const char *target) {
    return renameat2(from, source, to, target, 0);
}

int rename(const char *source, const char *target) {
    return renameat2(AT_FDCWD, source, AT_FDCWD, target, 0);
}

int linkat(int from, const char *source, int to, const char *target, int flags) {
    char path[PATH_MAX], old[PATH_MAX];
    CALL("link", absolute(to, target, path), absolute(from, source, old),
         syscall(SYS_linkat, from, source, to, target, flags));
}

int link(const char *source, const char *target) {
    return linkat(AT_FDCWD, source, AT_FDCWD, target, 0);
}

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    CALL("unlink", absolute(folder, name, path), "",
         syscall(SYS_unlinkat, folder, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    CALL("mkdir", absolute(AT_FDCWD, name, path), "",
         syscall(SYS_mkdirat, AT_FDCWD, name, mode));
}

static int open_at(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!root || !(flags & O_CREAT)) return syscall(SYS_openat, folder, name, flags, mode);
    CALL("create", absolute(folder, name, path), "",
         syscall(SYS_openat, folder, name, flags, mode));
}

#define MODE(flags, mode)                                          \
    mode_t mode = 0;                                               \
    if (flags & (O_CREAT | (__O_TMPFILE & ~O_DIRECTORY))) {        \
        va_list arguments;                                         \
        va_start(arguments, flags);                                \
        mode = va_arg(arguments, mode_t);                          \
        va_end(arguments);                                         \
    }

int open(const char *name, int flags, ...) {
    MODE(flags, mode)
    return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE(flags, mode)
    return open_at(AT_FDCWD, name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...) {
    MODE(flags, mode)
    return open_at(folder, name, flags, mode);
}

int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags, mode)
    return open_at(folder, name, flags, mode);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = REAL(clock_gettime);
    int result = next(which, now);
    if (!result && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += clock_offset;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec, now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
