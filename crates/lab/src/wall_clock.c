// Preloaded into a program, shifts what it reads of the wall clock by as many seconds as a file says, and nothing else: no other
// clock and no wait. (libfaketime can't be told that: with its monotonic clock left alone, an absolute clock_nanosleep on it
// returns at once.) What the kernel counts by itself is not touched either.
//
// The file is mapped, so a step is one store by whoever writes it, and a read costs no call.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct shared {
  // Written by the laboratory.
  _Atomic int64_t shift;
  // Written here: by how much the last read was shifted, and how many there were.
  _Atomic int64_t shown;
  _Atomic int64_t reads;
};

static struct shared *shared;
static int (*next)(clockid_t, struct timespec *);

__attribute__((constructor)) static void attach(void) {
  next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("LAB_WALL_CLOCK");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *map = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (map != MAP_FAILED) shared = map;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  // Other libraries may ask before this one is set up.
  int result = next ? next(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && shared && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t shift = atomic_load(&shared->shift);
    time->tv_sec += shift;
    atomic_store(&shared->shown, shift);
    atomic_fetch_add(&shared->reads, 1);
  }
  return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *seconds) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (seconds) *seconds = now.tv_sec;
  return now.tv_sec;
}
