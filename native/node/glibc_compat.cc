// Lets a binary that was built against a new glibc run on glibc 2.28.
//
// Linking against glibc 2.36 binds each function to its newest version: pthread_create@GLIBC_2.34, log@GLIBC_2.29, ...
// The same functions exist under their first version in every glibc. The linker sends all references, those of the
// static libstdc++ included, to __wrap_<name> (`--wrap`, addon.cmake lists the names); here each goes on to the old
// version, or to an equal that old systems have. scripts/check-glibc.mjs proves that nothing newer is left.
#include <features.h>

#if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define QWEN3_FIRST_VERSION "GLIBC_2.2.5"
constexpr int kStatVersion = 1;  // _STAT_VER of old headers
#else
#define QWEN3_FIRST_VERSION "GLIBC_2.17"
constexpr int kStatVersion = 0;
#endif

#if defined(__x86_64__)
#define QWEN3_VERSION_SINCE(x86_64_version) x86_64_version
#else
#define QWEN3_VERSION_SINCE(x86_64_version) QWEN3_FIRST_VERSION
#endif

// Declares first_<name> as <name> of an old glibc and forwards __wrap_<name> to it.
#define QWEN3_FORWARD_AT(version, result, name, parameters, arguments) \
  extern "C" result first_##name parameters;                           \
  __asm__(".symver first_" #name "," #name "@" version);               \
  extern "C" result __wrap_##name parameters {                         \
    return first_##name arguments;                                     \
  }
#define QWEN3_FORWARD(result, name, parameters, arguments) \
  QWEN3_FORWARD_AT(QWEN3_FIRST_VERSION, result, name, parameters, arguments)

// libpthread and libdl became part of libc in 2.34. Node has loaded both where they are files of their own.
QWEN3_FORWARD(int, pthread_create,
              (pthread_t * thread, const pthread_attr_t* attr, void* (*run)(void*), void* argument),
              (thread, attr, run, argument))
QWEN3_FORWARD(int, pthread_join, (pthread_t thread, void** result), (thread, result))
QWEN3_FORWARD(int, pthread_detach, (pthread_t thread), (thread))
QWEN3_FORWARD(int, pthread_once, (pthread_once_t * once, void (*run)(void)), (once, run))
QWEN3_FORWARD(int, pthread_sigmask, (int how, const sigset_t* set, sigset_t* old), (how, set, old))
QWEN3_FORWARD_AT(QWEN3_VERSION_SINCE("GLIBC_2.12"), int, pthread_setname_np, (pthread_t thread, const char* name),
                 (thread, name))
QWEN3_FORWARD_AT(QWEN3_VERSION_SINCE("GLIBC_2.3.4"), int, pthread_getaffinity_np,
                 (pthread_t thread, size_t bytes, cpu_set_t* set), (thread, bytes, set))
QWEN3_FORWARD_AT(QWEN3_VERSION_SINCE("GLIBC_2.3.4"), int, pthread_setaffinity_np,
                 (pthread_t thread, size_t bytes, const cpu_set_t* set), (thread, bytes, set))
QWEN3_FORWARD(int, pthread_key_create, (pthread_key_t * key, void (*destroy)(void*)), (key, destroy))
QWEN3_FORWARD(int, pthread_key_delete, (pthread_key_t key), (key))
QWEN3_FORWARD(void*, pthread_getspecific, (pthread_key_t key), (key))
QWEN3_FORWARD(int, pthread_setspecific, (pthread_key_t key, const void* value), (key, value))
QWEN3_FORWARD(int, pthread_mutex_trylock, (pthread_mutex_t * mutex), (mutex))
QWEN3_FORWARD(int, pthread_rwlock_rdlock, (pthread_rwlock_t * lock), (lock))
QWEN3_FORWARD(int, pthread_rwlock_wrlock, (pthread_rwlock_t * lock), (lock))
QWEN3_FORWARD(int, pthread_rwlock_unlock, (pthread_rwlock_t * lock), (lock))
QWEN3_FORWARD(int, sem_init, (sem_t * semaphore, int shared, unsigned value), (semaphore, shared, value))
QWEN3_FORWARD(int, sem_post, (sem_t * semaphore), (semaphore))
QWEN3_FORWARD(int, sem_wait, (sem_t * semaphore), (semaphore))
QWEN3_FORWARD(int, sem_destroy, (sem_t * semaphore), (semaphore))
QWEN3_FORWARD(void*, dlopen, (const char* file, int mode), (file, mode))
QWEN3_FORWARD(void*, dlsym, (void* handle, const char* symbol), (handle, symbol))
QWEN3_FORWARD(int, dlclose, (void* handle), (handle))
QWEN3_FORWARD(char*, dlerror, (void), ())
QWEN3_FORWARD(int, dladdr, (const void* address, void* info), (address, info))

// New versions since 2.27 and 2.29 differ in how errors reach errno, not in values.
QWEN3_FORWARD(double, exp, (double x), (x))
QWEN3_FORWARD(double, exp2, (double x), (x))
QWEN3_FORWARD(double, log, (double x), (x))
QWEN3_FORWARD(double, log2, (double x), (x))
QWEN3_FORWARD(double, pow, (double x, double y), (x, y))
QWEN3_FORWARD(float, expf, (float x), (x))
QWEN3_FORWARD(float, logf, (float x), (x))
QWEN3_FORWARD(float, powf, (float x, float y), (x, y))

// Before 2.33 stat and its kin were inline functions over these. `struct stat64` equals `struct stat` here.
extern "C" int __xstat(int version, const char* path, struct stat* result);
extern "C" int __lxstat(int version, const char* path, struct stat* result);
extern "C" int __fxstat(int version, int fd, struct stat* result);
__asm__(".symver __xstat,__xstat@" QWEN3_FIRST_VERSION);
__asm__(".symver __lxstat,__lxstat@" QWEN3_FIRST_VERSION);
__asm__(".symver __fxstat,__fxstat@" QWEN3_FIRST_VERSION);

extern "C" int __wrap_stat(const char* path, struct stat* result) {
  return __xstat(kStatVersion, path, result);
}
extern "C" int __wrap_stat64(const char* path, struct stat* result) {
  return __xstat(kStatVersion, path, result);
}
extern "C" int __wrap_lstat(const char* path, struct stat* result) {
  return __lxstat(kStatVersion, path, result);
}
extern "C" int __wrap_lstat64(const char* path, struct stat* result) {
  return __lxstat(kStatVersion, path, result);
}
extern "C" int __wrap_fstat(int fd, struct stat* result) {
  return __fxstat(kStatVersion, fd, result);
}
extern "C" int __wrap_fstat64(int fd, struct stat* result) {
  return __fxstat(kStatVersion, fd, result);
}

// 2.32: false ("there may be more threads") is always right.
extern "C" {
extern char __wrap___libc_single_threaded;
char __wrap___libc_single_threaded = 0;
}

// 2.30: waits of std::condition_variable against the steady clock. The wait goes to the system clock instead, over the
// time that remains; the standard library looks at the steady clock again afterwards, so a jump only wakes it early or
// late.
extern "C" int __wrap_pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                             const timespec* until) {
  timespec now, system;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &system);
  constexpr int64_t kSecond = 1000000000;
  int64_t remaining = (until->tv_sec - now.tv_sec) * kSecond + (until->tv_nsec - now.tv_nsec);
  if (remaining < 0) remaining = 0;
  const int64_t nanoseconds = system.tv_nsec + remaining % kSecond;
  const timespec deadline{static_cast<time_t>(system.tv_sec + remaining / kSecond + nanoseconds / kSecond),
                          static_cast<long>(nanoseconds % kSecond)};
  return pthread_cond_timedwait(condition, mutex, &deadline);
}

// 2.36, referred to by std::random_device of the static libstdc++.
extern "C" uint32_t __wrap_arc4random() {
  uint32_t value = 0;
  // Fails only for more than 256 bytes or on kernels before 3.17, which Node 20 does not run on.
  while (getentropy(&value, sizeof value) != 0 && errno == EINTR) {
  }
  return value;
}

#endif
