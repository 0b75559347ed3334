/* Preloaded into a process: lets the n-th system call on files below a folder fail, or the process die in it.

   A call that writes dies, or fails, with half of its bytes written where n is even. Armed by driver.py through ctypes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096], only[64];
static long nth, count;
static int failure, lasting, armed;

void fault_arm(const char *path, const char *calls, long n, int error, int last)
{
    snprintf(folder, sizeof folder, "%s", path);
    snprintf(only, sizeof only, "%s", calls);
    nth = n, failure = error, lasting = last, count = 0, armed = 1;
}

long fault_count(void) { return count; }

void fault_disarm(void) { armed = 0; }

static int struck(const char *call, const char *path)
{
    if (!armed || strncmp(path, folder, strlen(folder)) || (strcmp(only, "all") && !strstr(only, call)))
        return 0;
    count++;
    return nth > 0 && (count == nth || (lasting && count > nth));
}

static int struck_fd(const char *call, int fd)
{
    char link[64], path[4096];
    if (!armed)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return struck(call, path);
}

static int end(void)
{
    if (!failure)
        kill(getpid(), SIGKILL);
    errno = failure;
    return -1;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_FD(name, parameters, arguments) \
    int name parameters \
    { \
        NEXT(name); \
        return struck_fd(#name, fd) ? end() : next arguments; \
    }

#define ON_PATH(name, parameters, arguments) \
    int name parameters \
    { \
        NEXT(name); \
        return struck(#name, path) ? end() : next arguments; \
    }

#define WRITING(name, parameters, half, whole) \
    ssize_t name parameters \
    { \
        NEXT(name); \
        if (!struck_fd(#name, fd)) \
            return next whole; \
        if (count % 2 == 0 && size > 1) { \
            ssize_t done = next half; \
            if (failure) \
                return done; \
        } \
        return end(); \
    }

ON_FD(fsync, (int fd), (fd))
ON_FD(fdatasync, (int fd), (fd))
ON_FD(ftruncate, (int fd, off_t size), (fd, size))
ON_FD(ftruncate64, (int fd, off64_t size), (fd, size))
ON_PATH(unlink, (const char *path), (path))
WRITING(write, (int fd, const void *bytes, size_t size), (fd, bytes, size / 2), (fd, bytes, size))
WRITING(pwrite, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size / 2, at), (fd, bytes, size, at))
WRITING(pwrite64, (int fd, const void *bytes, size_t size, off64_t at), (fd, bytes, size / 2, at), (fd, bytes, size, at))

int rename(const char *before, const char *path)
{
    NEXT(rename);
    return struck("rename", path) ? end() : next(before, path);
}
